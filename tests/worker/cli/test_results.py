"""`docmill results`: options that exclude each other, jobs whose results cannot be written, and remarks."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import click
import pytest
from pyarrow import parquet
from python_calamine import CalamineWorkbook

from docmill.storage.core.database import Database
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps.conditions import Flagged
from docmill.tasks.checks import in_words
from docmill.worker.cli.commands.results import Export, describe_pending, kinds_of, remarks
from docmill.worker.errors import WorkerError
from tests.storage.builders import numbered, read, request
from tests.worker.harness import Docmill

OUT = Path("results.jsonl")


@pytest.fixture
def status(database: Database) -> JobStatus:
    """A job of which nothing is done."""
    return read_status(database, read(database, request(), numbered(3)).id)


@pytest.mark.parametrize(
    ("export", "says"),
    [
        (Export(OUT, part_documents=10, partial=True), "--partial is for one file"),
        (Export(OUT, overwrite=True), "--overwrite is for parts"),
        (Export(OUT, flagged=Flagged(), unflagged=Flagged()), "--flagged and --unflagged exclude each other"),
        (Export(OUT, every=True, unflagged=Flagged()), "--all writes every input, into one file"),
        (Export(Path("out.npy"), every=True), "npy has no place for inputs without a result; --all takes jsonl"),
        (Export(Path("out.npy"), with_input=True), "npy has no place for texts"),
        (Export(Path("-"), "openai-batch", with_input=True), "openai-batch has no place for texts"),
        (Export(Path("-"), "openai-batch", every=True), "openai-batch has no place for inputs without a result"),
        (Export(OUT, part_documents=10, with_input=True), "--with-input and --details are for one file"),
        (Export(Path("-"), part_documents=10), "parts need a folder"),
        (Export(Path("-"), "parquet"), "parquet needs a file"),
    ],
)
def test_options_that_exclude_each_other_are_refused(export: Export, says: str) -> None:
    with pytest.raises((click.UsageError, WorkerError)) as refused:
        export.check()
    assert says in str(refused.value)


def test_results_are_written_and_counted_by_their_flags(embedded: Docmill) -> None:
    source = embedded.folder / "letters.jsonl"
    source.write_bytes(b'{"id": "a", "text": "caf\xff"}\n{"id": "b", "text": "good"}\n')
    embedded("run", "translate", source, "--model", "null", "--out", "out.jsonl")
    assert [result["id"] for result in embedded.results(1, "--flagged", "invalid_utf8")] == ["a"]
    assert [result["id"] for result in embedded.results(1, "--unflagged", "invalid_utf8,empty")] == ["b"]
    assert [result["id"] for result in embedded.results(1, "--unflagged")] == ["a", "b"]
    none = embedded("results", 1, "--flagged")
    assert (none.stdout, none.stderr) == (
        "",
        "No result of job 1 carries such flags; `docmill status 1` counts them.\n",
    )
    unsure = embedded("results", 1, "--flagged", "confidence<0.5")
    assert (unsure.stdout, unsure.stderr) == (
        "",
        "No result of job 1 is flagged confidence<0.5; `docmill results 1` writes all, with the numbers that the "
        "model gave.\n",
    )
    assert [result["id"] for result in embedded.results(1, "--unflagged", "confidence<0.5,invalid_utf8")] == ["b"]
    refused = embedded("results", 1, "--flagged", "risk>0.3", code=2).stderr
    assert "docmill results JOB --risk-above 0.3 does" in " ".join(refused.split())
    assert "'confidence' has no bound" in embedded("results", 1, "--flagged", "confidence", code=2).stderr
    assert "no flag is called 'loop'; there are " in embedded("results", 1, "--flagged", "loop", code=2).stderr
    assert "docmill results 1 --flagged" in embedded("results", "--flagged", 1, code=2).stderr
    status = embedded.json("status", 1)
    assert (status["doubtful"], status["flags"]) == (0, {"invalid_utf8": 1})
    assert status["flags_by_step"] == {"translate": {"doubtful": 0, "flags": {"invalid_utf8": 1}, "not_selected": 0}}
    assert "remarks: invalid_utf8 1" in embedded("status", 1).stdout


def test_an_export_says_what_it_leaves_out_and_all_writes_it(embedded: Docmill) -> None:
    source = embedded.folder / "letters.jsonl"
    source.write_text(
        '{"id": "a", "text": "one"}\nbad\n{"id": "b", "text": " "}\n{"id": "c", "text": "0"}\n'
        '{"id": "c", "text": "two"}\n'
    )
    message = "3 inputs have no result and are left out; `docmill results 1 --all` writes every input"
    run = embedded("run", "translate", source, "--model", "null", "--out", "out.jsonl", code=4)
    assert message in run.stderr
    for options in ((), ("--out", "out.csv", "--details"), ("--out", "parts", "--part-documents", 1)):
        assert message in embedded("results", 1, *options).stderr
    whole = embedded("results", 1, "--all")
    assert "left out" not in whole.stderr
    assert [(row["id"], row["outcome"]) for row in map(json.loads, whole.stdout.splitlines())] == [
        ("a", "done"),
        ("b", "skipped"),
        ("c", "done"),
        ("letters.jsonl:2", "rejected"),
        ("letters.jsonl:4", "superseded"),
    ]
    assert "Wrote 5 inputs to all.parquet." in embedded("results", 1, "--all", "--out", "all.parquet").stderr
    assert parquet.read_table(embedded.folder / "all.parquet")["outcome"].to_pylist()[-1] == "superseded"
    embedded("corpus", "rm", "letters.jsonl", "--document", "a", "--yes")
    assert message in embedded("results", 1).stderr
    assert "left out" not in embedded("results", 1, "--all").stderr


@pytest.mark.parametrize("name", ["out.csv", "out.xlsx"])
def test_a_spreadsheet_has_a_row_for_each_input_and_says_in_words_what_is_wrong(embedded: Docmill, name: str) -> None:
    letters = [b'{"id": "a", "text": "caf\xff"}', b"bad", b'{"id": "b", "text": " "}', b'{"id": "=c", "text": "+1"}']
    (embedded.folder / "letters.jsonl").write_bytes(b"\n".join(letters))
    run = ["run", "translate", "letters.jsonl", "--model", "null", "--out", name, "--with-input"]
    assert f"Wrote 4 rows to {name}." in embedded(*run, code=4).stderr
    rows = read_cells(embedded.folder / name)
    mark = "'" if name == "out.csv" else ""
    assert rows == [
        ["document", "text", "translation", "remarks"],
        ["a", "caf\ufffd", "caf\ufffd", in_words("invalid_utf8@3")],
        ["b", " ", "", "skipped: The text is blank"],
        [f"{mark}=c", f"{mark}+1", f"{mark}+1", ""],
        ["letters.jsonl:2", "", "", rows[-1][-1]],
    ]
    assert rows[-1][-1].startswith("rejected: ")
    stderr = embedded("run", "embed", name, "--model", "null", code=2).stderr
    assert "docmill wrote this table for people; to read it, add --id-field document" in " ".join(stderr.split())
    technical = ["id", "task", "text", "tokens_in", "tokens_out", "flags", "meta"]
    embedded("results", 1, "--details", "--out", name)
    assert read_cells(embedded.folder / name)[0][:7] == technical


def read_cells(path: Path) -> list[list[str]]:
    if path.suffix == ".csv":
        return [*csv.reader(path.read_text().splitlines())]
    return [[str(cell) for cell in row] for row in CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python()]


def test_a_job_that_has_not_ended_has_results_only_with_partial_or_in_parts(status: JobStatus) -> None:
    message = describe_pending(Export(OUT), status)
    assert message == f"Job {status.id} is not finished (3 texts to do); --partial writes what there is."
    assert describe_pending(Export(OUT, partial=True), status) is None
    assert describe_pending(Export(OUT, part_documents=2), status) is None


def test_a_job_of_several_steps_has_the_kinds_of_the_step_that_is_named(status: JobStatus) -> None:
    (step,) = status.steps
    assert kinds_of(status, None) == [step.spec.kind]
    several = replace(status, steps=(step, replace(step, name="second", spec=replace(step.spec, kind="embed"))))
    assert kinds_of(several, None) == ["copy", "embed"]
    assert kinds_of(several, "second") == ["embed"]
    assert kinds_of(several, "third") == []


def test_remarks_count_documents_without_a_result(status: JobStatus) -> None:
    ended = replace(status, state="done", done=3, pending=0)
    assert remarks(ended) == []
    assert "1 failed" in remarks(replace(ended, failed=1, done=2))[-1]
    cancelled = remarks(replace(status, state="cancelled"))
    assert cancelled[0] == f"Job {status.id} was cancelled: 3 of its 3 texts have no result."
    assert "have no result" not in remarks(replace(ended, state="cancelled"))[0]
