"""A judged file is taken back, from a spreadsheet and from Label Studio, and refused with its place."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from docmill.features.reviewing.judgements import Verdict
from docmill.features.reviewing.population import OutputToReview
from docmill.features.reviewing.session import COLUMNS, WRITERS, list_rows, read_file
from docmill.worker.errors import WorkerError

ITEMS = [OutputToReview(n, bytes([n]) * 32, f"d{n}", "ligne\nune", f"=out,{n}", "aa") for n in (1, 2, 3, 4)]


def export(suffix: str) -> str:
    file = io.BytesIO()
    assert WRITERS[suffix].write(list_rows(ITEMS, 7), COLUMNS, file) == 4
    return file.getvalue().decode("utf-8-sig")


def write_file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_spreadsheet_comes_back_with_its_verdicts(tmp_path: Path) -> None:
    heading, *rows = export(".csv").split("\r\n,,")
    assert "'=out,1" in rows[0]
    text = "".join(
        (heading, "\r\nGood,,", rows[0], "\r\n,,", rows[1], "\r\nb,the number,", rows[2], "\r\n,,", rows[3])
    )
    entries = read_file(write_file(tmp_path, "a.csv", text))
    assert [(entry.sha256, entry.verdict, entry.note) for entry in entries] == [
        (bytes([1]) * 32, Verdict.GOOD, None),
        (bytes([2]) * 32, Verdict.SKIPPED, None),
        (bytes([3]) * 32, Verdict.BAD, "the number"),
    ]
    assert {(entry.spec, entry.seed, entry.judged_by) for entry in entries} == {("aa", 7, None)}
    semicolons = "verdict;seed;spec;text_sha256\r\ngood;7;aa;" + "01" * 32
    assert [entry.verdict for entry in read_file(write_file(tmp_path, "b.csv", semicolons))] == [Verdict.GOOD]


def annotate(*verdicts: str | None) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = json.loads(export(".json"))
    for task, verdict in zip(tasks, verdicts, strict=False):
        choice = {"from_name": "verdict", "to_name": "output", "type": "choices", "value": {"choices": [verdict]}}
        note = {"from_name": "note", "to_name": "output", "type": "textarea", "value": {"text": ["a name"]}}
        result = [] if verdict is None else [choice, note]
        task["annotations"] = [{"completed_by": 3, "was_cancelled": verdict is None, "result": result}]
    return tasks


def test_label_studios_tasks_come_back_as_json_and_as_json_min(tmp_path: Path) -> None:
    tasks = annotate("good", None, "bad")
    assert {*tasks[0]["data"]} == {"document", "input", "output", "seed", "spec", "text_sha256"}
    entries = read_file(write_file(tmp_path, "a.json", json.dumps(tasks)))
    assert [entry.verdict for entry in entries] == [Verdict.GOOD, Verdict.SKIPPED, Verdict.BAD]
    assert (entries[0].note, entries[0].judged_by) == ("a name", "3")
    flat = [task["data"] | {"verdict": "bad", "annotator": 3} for task in json.loads(export(".json"))]
    entries = read_file(write_file(tmp_path, "b.json", json.dumps(flat)))
    assert {entry.verdict for entry in entries} == {Verdict.BAD}
    assert read_file(write_file(tmp_path, "c.json", export(".json"))) == []


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "verdict,input\r\n", "a.csv:1: missing columns: seed, spec, text_sha256;"),
        ("a.csv", 'verdict,seed,spec,text_sha256\r\n"",1,aa,01\r\n"per\nhaps",1,aa,02', "a.csv:3: the verdict is"),
        ("a.csv", "verdict,seed,spec,text_sha256\r\ngood,,aa,01", "a.csv:2: seed is missing"),
        (
            "a.csv",
            "verdict,seed,spec,text_sha256\r\ng,1,aa,01\r\nb,1,aa,01",
            "a.csv:3: it is the same output as .*a.csv:2",
        ),
        ("a.json", "[{},\n{]", "a.json:2: "),
        ("a.json", '[{"data": {"seed": 1}}]', "a.json, task 1: spec, text_sha256 is missing"),
        (
            "a.json",
            '[{"verdict": "bad", "seed": [1], "spec": {"a": 1}, "text_sha256": "01"}]',
            "task 1: seed, spec or text_sha256 was",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(
    tmp_path: Path, name: str, text: str | None, says: str
) -> None:
    if text is not None:
        write_file(tmp_path, name, text)
    with pytest.raises(WorkerError, match=says):
        read_file(tmp_path / name)
