"""Exports in parts: which parts are kept, written again or refused."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Reason
from docmill.storage.deletion import gc, removal
from docmill.storage.errors import ExportBlocked, StorageError
from docmill.storage.leases.shards import Claim
from docmill.storage.readers import Record, SourceOptions, open_source
from docmill.storage.results import parts
from docmill.storage.results.parts import ExportedFolder, ExportProgress
from docmill.storage.results.results import Placed, columns, results
from docmill.storage.steps import jobs
from docmill.storage.writers import Target
from docmill.storage.writers.parts_manifest import Manifest, from_json
from tests.storage.builders import (
    EMBED,
    TRANSLATE,
    done,
    echo,
    failed,
    finish,
    numbered,
    record_statements,
    request,
    run_job,
)
from tests.storage.search.test_search import embedded

Contents = dict[str, bytes]


def run_n(database: Database, n: int, outcomes: Callable[[Claim], list[Outcome]] = echo, **more: Any) -> int:
    """Run a job over n documents. Return its number."""
    return run_job(database, request(**{"spec": TRANSLATE, **more}), numbered(n), outcomes).id


def contents(folder: Path) -> Contents:
    """Return the contents of the files of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_manifest(folder: Path) -> Manifest:
    manifest = from_json((folder / "manifest.json").read_bytes())
    assert manifest is not None
    return manifest


def export(
    database: Database, job: int, folder: Path, n: int = 10, form: str | None = None, **how: Any
) -> ExportedFolder:
    return parts.export(database, job, Target.of(folder, form), n, **how)


class Cut(ExportProgress):
    """Interrupts an export before its n-th row, and notes why the export began anew."""

    def __init__(self, at: int | None = None) -> None:
        self._at = at
        self.why: list[str] = []

    def anew(self, why: str) -> None:
        self.why.append(why)

    def along(self, rows: Iterator[Placed], before: int) -> Iterable[Placed]:
        for n, row in enumerate(rows):
            if n == self._at:
                raise KeyboardInterrupt
            yield row


@pytest.mark.parametrize("form", ["jsonl", "jsonl.zst", "csv", "csv.gz", "parquet", "npy"])
def test_the_parts_together_equal_the_single_file_also_after_an_interruption(
    database: Database, tmp_path: Path, form: str
) -> None:
    job = run_n(database, 25, embedded, spec=EMBED)
    assert export(database, job, tmp_path / f"whole.{form}") == ExportedFolder(25, 3, 3)
    with pytest.raises(KeyboardInterrupt):
        export(database, job, tmp_path / f"cut.{form}", progress=Cut(17))
    assert [part.documents for part in read_manifest(tmp_path / f"cut.{form}").parts] == [10]
    assert not read_manifest(tmp_path / f"cut.{form}").complete
    assert export(database, job, tmp_path / f"cut.{form}") == ExportedFolder(25, 3, 2)
    whole = contents(tmp_path / f"whole.{form}")
    assert contents(tmp_path / f"cut.{form}") == whole
    assert len(whole) == (7 if form == "npy" else 4)
    files = sorted(path for path in (tmp_path / f"whole.{form}").iterdir() if path.name.endswith(form))
    assert [path.name for path in files] == [f"part-0000{n}.{form}" for n in range(3)]
    Target.of(tmp_path / f"single.{form}").write(results(database, job), columns(database, job))
    single = tmp_path / f"single.{form}"
    if form == "parquet":
        tables = [parquet.read_table(file).to_pylist() for file in files]
        assert [row for table in tables for row in table] == parquet.read_table(single).to_pylist()
    elif form == "npy":
        assert np.array_equal(np.concatenate([np.load(file) for file in files]), np.load(single))
        ids = [file.with_name(f"{file.stem}.ids.jsonl").read_bytes() for file in files]
        assert b"".join(ids) == (tmp_path / "single.ids.jsonl").read_bytes()
    else:
        assert [row for file in files for row in rows_of(file)] == rows_of(single)


def rows_of(path: Path) -> list[Record]:
    """Return the records of a file, without their places."""
    options = SourceOptions(text_field="vector" if "csv" in path.name else "task")
    rows = list(open_source(str(path), options).records())
    assert all(isinstance(row, Record) for row in rows)
    return [Record(row.key, row.text, row.meta, row.flags, "") for row in rows if isinstance(row, Record)]


@pytest.mark.slow
def test_a_continued_export_reads_nothing_before_its_place(database: Database, tmp_path: Path) -> None:
    job = run_n(database, 5_200)
    with pytest.raises(KeyboardInterrupt):
        export(database, job, tmp_path / "out", 1_000, progress=Cut(5_100))
    statements = record_statements(database)
    assert export(database, job, tmp_path / "out", 1_000) == ExportedFolder(5_200, 6, 1)
    pages = [statement for statement, _ in statements if "FROM document" in statement and "LIMIT" in statement]
    assert len(pages) == 1


@pytest.mark.parametrize("damage", ["missing", "shorter", "other bytes"])
def test_only_a_changed_part_is_written_again(database: Database, tmp_path: Path, damage: str) -> None:
    job = run_n(database, 35)
    export(database, job, tmp_path / "out")
    before = contents(tmp_path / "out")
    part = tmp_path / "out" / "part-00001.jsonl"
    raw = part.read_bytes()
    part.unlink()
    if damage != "missing":
        part.write_bytes(raw[:-1] if damage == "shorter" else raw.replace(b"k11", b"k99"))
    assert export(database, job, tmp_path / "out") == ExportedFolder(35, 4, 1)
    assert contents(tmp_path / "out") == before


def test_results_of_a_retry_for_earlier_parts_are_exported(database: Database, tmp_path: Path) -> None:
    job = run_n(database, 25, lambda claim: [*failed(claim, Reason.TRANSIENT)[:3], *echo(claim)[3:]])
    with pytest.raises(KeyboardInterrupt):
        export(database, job, tmp_path / "out", progress=Cut(18))
    jobs.retry(database, job)
    with pytest.raises(StorageError):
        export(database, job, tmp_path / "out")
    finish(database, echo)
    progress = Cut()
    assert export(database, job, tmp_path / "out", progress=progress) == ExportedFolder(25, 3, 3)
    assert "have changed since" in progress.why[0]
    assert [part.first_id for part in read_manifest(tmp_path / "out").parts] == ["k0", "k10", "k20"]


def test_after_removals_and_recomputed_results_an_export_is_written_again(database: Database, tmp_path: Path) -> None:
    job = run_n(database, 15)
    export(database, job, tmp_path / "out")
    removal.remove_documents(database, "books", ["k3"])
    assert export(database, job, tmp_path / "out") == ExportedFolder(14, 2, 2)
    assert b'"k3"' not in (tmp_path / "out" / "part-00000.jsonl").read_bytes()
    gc.drop(database)
    assert export(database, job, tmp_path / "out") == ExportedFolder(0, 0, 0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]
    again = run_n(database, 5, done)  # its job covers all of the corpus
    assert again != job
    assert export(database, job, tmp_path / "out") == ExportedFolder(14, 2, 2)
    assert b'"text":"out"' in (tmp_path / "out" / "part-00000.jsonl").read_bytes()


def test_results_that_change_during_an_export_leave_it_incomplete(database: Database, tmp_path: Path) -> None:
    job = run_n(database, 25, lambda claim: [*failed(claim)[:1], *echo(claim)[1:]])

    class Meanwhile(ExportProgress):
        def along(self, rows: Iterator[Placed], before: int) -> Iterable[Placed]:
            yield from rows
            jobs.retry(database, job)
            finish(database, echo)

    with pytest.raises(ExportBlocked, match="write them again"):
        export(database, job, tmp_path / "out", progress=Meanwhile())
    assert not read_manifest(tmp_path / "out").complete
    assert export(database, job, tmp_path / "out") == ExportedFolder(25, 3, 3)


def test_the_folder_of_another_export_is_refused_unless_it_is_replaced(database: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job, another = run_n(database, 12), run_n(database, 12, corpus="other")
    export(database, job, out)
    (out / "my-part-00000.csv").write_text("mine")
    before = contents(out)
    for differs, arguments in (
        ("job 1, not 2", (another, out)),
        ("format jsonl, not csv", (job, out, 10, "csv")),
        ("10 documents a part, not 5", (job, out, 5)),
    ):
        with pytest.raises(StorageError, match=rf"\({differs}\): name another folder, or .* --overwrite"):
            export(database, *arguments)
    assert contents(out) == before
    progress = Cut()
    assert export(database, another, out, 5, "csv", replaced=True, progress=progress) == ExportedFolder(12, 3, 3)
    assert progress.why == [
        "it held the parts of another export (job 1, not 2; format jsonl, not csv; 10 documents a part, not 5)"
    ]
    assert sorted(contents(out)) == ["manifest.json", "my-part-00000.csv", *(f"part-0000{n}.csv" for n in range(3))]
    assert export(database, another, out, 5, "csv", replaced=True) == ExportedFolder(12, 3, 0), (
        "the folder is that of this export now"
    )


def test_a_job_of_the_same_number_in_another_store_is_another_export(database: Database, tmp_path: Path) -> None:
    job = run_n(database, 3)
    export(database, job, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    manifest_json = json.loads(path.read_text())
    path.write_text(json.dumps(manifest_json | {"created_at": manifest_json["created_at"] - 1}))
    with pytest.raises(StorageError, match="a job 1 of another store"):
        export(database, job, tmp_path / "out")


def test_a_folder_with_other_files_is_refused_and_unchanged(database: Database, tmp_path: Path) -> None:
    job = run_n(database, 3)
    for name, text, says in (
        ("notes.txt", "mine", r"has files in it and no manifest\.json"),
        ("manifest.json", '{"files": []}', r"manifest\.json is none of docmill's"),
        ("manifest.json", '{"manifest": 1}', "none of docmill's"),
        ("manifest.json", "[", "none of docmill's"),
    ):
        folder = tmp_path / f"{name}-{len(text)}"
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(StorageError, match=says):
            export(database, job, folder, replaced=True)
        assert contents(folder) == {name: text.encode()}
    with pytest.raises(StorageError, match="is a file"):
        export(database, job, tmp_path / "notes.txt-4" / "notes.txt", form="jsonl")


def test_the_files_that_a_killed_export_left_are_deleted(database: Database, tmp_path: Path) -> None:
    job = run_n(database, 15)
    out = tmp_path / "out"
    out.mkdir()
    begun = ".manifest.json.abcd1234.part"
    (out / begun).touch()
    export(database, job, out)
    before = contents(out)
    assert begun not in before
    for name in (begun, ".part-00001.jsonl.abcd1234.part", "part-00001.csv", "part-00007.ids.jsonl"):
        (out / name).write_text("half")
    (out / "part-00001.jsonl").unlink()
    export(database, job, out)
    assert contents(out) == before


def test_two_commands_cannot_write_one_folder_at_once(database: Database, tmp_path: Path) -> None:
    job = run_n(database, 3)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ExportBlocked, match="another process is writing"):
            export(database, job, tmp_path / "out")
    export(database, job, tmp_path / "out")  # a killed process leaves the file, which nobody locks
    assert sorted(contents(tmp_path / "out")) == ["manifest.json", "part-00000.jsonl"]


def test_a_release_does_not_touch_a_finished_export_and_does_not_continue_the_parts_of_another(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = run_n(database, 25)
    monkeypatch.setattr("docmill.storage.results.parts.version", lambda name: "0.0.9")
    export(database, job, tmp_path / "done")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "done").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        export(database, job, tmp_path / "begun", progress=Cut(17))
    monkeypatch.undo()
    progress = Cut()
    assert export(database, job, tmp_path / "done", step="translate", progress=progress) == ExportedFolder(25, 3, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "done").iterdir()} == before
    assert export(database, job, tmp_path / "begun", progress=progress) == ExportedFolder(25, 3, 3)
    assert progress.why == ["its parts are of docmill 0.0.9"]
