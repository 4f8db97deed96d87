"""`docmill review`: outputs are shown and judged, the review goes on, and files come back."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from storage.reviews.items import Item
from tests.worker.harness import Docmill
from worker.cli.reviewed import shown


def test_a_sample_is_judged_by_lines_and_by_a_file(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    write_corpus([{"id": f"k{n}", "text": f"word {n} \x1b[31m"} for n in range(8)])
    embedded("run", "corpus.jsonl", "--task", "summarize", "--model", "null")
    first = embedded("review", 1, "--size", 6, stdin=b"g\nx\nb the number\ns\nq\n")
    assert "1 of 6: document k" in first.stderr
    assert "'x' is no verdict" in first.stderr
    assert "4 of 6: document" in first.stderr
    assert "5 of 6: document" not in first.stderr
    assert "\x1b[31m" not in first.stderr
    assert "2 of 8 outputs are judged, 1 skipped." in first.stdout
    embedded("review", 1, "--size", 6, "--export", "a.csv")
    with (embedded.folder / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 4
    with (embedded.folder / "b.csv").open("w", newline="") as file:
        judged = csv.DictWriter(file, rows[0].keys())
        judged.writeheader()
        judged.writerows(row | {"verdict": "good"} for row in rows)
    found = embedded.json("review", 1, "--import", "b.csv")
    assert (found["judged"], found["counted"], found["skipped"], found["outputs"]) == (6, 6, 0, 8)
    assert found["shares"][0]["good"] == 5
    assert "The sample of 6 is judged" in embedded("review", 1, "--size", 6).stderr
    assert embedded.json("review", 1, "--summary", "--seed", 9)["counted"] < 6
    write_corpus([{"id": "other", "text": "another"}], "other.jsonl")
    embedded("run", "other.jsonl", "--task", "translate", "--from", "fr", "--to", "en", "--model", "null")
    assert "b.csv:2: it is not of the outputs of step translate of job 2" in (
        embedded("review", 2, "--import", "b.csv", code=2).stderr
    )
    assert "exclude each other" in embedded("review", 1, "--summary", "--export", "a.csv", code=2).stderr
    assert "neither .csv nor .json" in embedded("review", 1, "--export", "a.txt", code=2).stderr


def printed(width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(shown(Item(1, b"", "k\x1b", "left\x1b one", "right"), "1 of 2", width))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_input_and_output_stand_side_by_side_where_there_is_room() -> None:
    assert printed(80) == ["", "1 of 2: document k\ufffd", "Input", "left\ufffd one", "Output", "right"]
    assert [line.split() for line in printed(120)][-1] == ["left\ufffd", "one", "right"]
