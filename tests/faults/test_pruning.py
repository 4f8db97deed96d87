"""Pruning marks nothing that the source still has: what was not read has not vanished. Row 49 of the fault matrix."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.database import Database
from docmill.storage.errors import StorageError
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.tasks.errors import BadOption
from docmill.worker.errors import WorkerError
from docmill.worker.pipelines.file import parse
from docmill.worker.settings import Settings
from docmill.worker.submit.enqueue import Enqueued, enqueue
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import prepare
from tests.storage.builders import documents as present
from tests.storage.builders import work

Read = Callable[..., Enqueued]


@pytest.fixture
def read(tmp_path: Path, database: Database) -> Read:
    """A function that reads a source into the corpus `c`, and prunes it."""

    def read_source(source: Path | str, **options: Any) -> Enqueued:
        request = Request(source=str(source), task="translate", model="null", corpus="c", prune=True, **options)
        enqueued = enqueue(database, None, prepare(Settings(home=tmp_path / "home"), request))
        work(database)
        jobs.finish(database)
        return enqueued

    return read_source


def lines(path: Path, *records: dict[str, Any] | str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in records))
    return path


def record(*keys: str) -> list[dict[str, Any]]:
    return [{"id": key, "text": f"text {key}"} for key in keys]


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<html><body><p>This is the text of {name}, and it says so.</p></body></html>")
    return root


def without_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docmill.storage.extras.find_spec", lambda _: None)


def break_off(monkeypatch: pytest.MonkeyPatch, mount: str) -> None:
    """Make the folder of this name fail as a mount does whose server is away."""
    scandir = os.scandir

    def failing(path: Any) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        if Path(path).name == mount:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)


def test_files_whose_extra_is_missing_have_not_vanished(
    database: Database, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "notes", "a.txt", "b.txt", "c.txt", "d.html", "e.html")
    read(folder)
    (folder / "c.txt").unlink()
    (folder / "e.html").unlink()
    without_formats(monkeypatch)
    enqueued = read(folder)
    assert present(database).keys() == {"a.txt", "b.txt", "c.txt", "d.html", "e.html"}
    assert enqueued.not_pruned is not None
    assert "1 .html" in enqueued.not_pruned
    assert "[formats]" in enqueued.not_pruned
    # With "keep" the others are marked all the same.
    enqueued = read(folder, prune_rejected="keep")
    assert (enqueued.counts.vanished, enqueued.not_pruned) == (1, None)
    assert present(database).keys() == {"a.txt", "b.txt", "d.html", "e.html"}


def test_files_that_are_left_out_and_never_were_documents_stop_nothing(
    database: Database, read: Read, tmp_path: Path
) -> None:
    folder = write(tmp_path / "notes", "a.txt", "b.txt", "picture.png", "README")
    read(folder)
    (folder / "b.txt").unlink()
    enqueued = read(folder)
    assert (enqueued.counts.vanished, enqueued.not_pruned) == (1, None)
    assert present(database).keys() == {"a.txt"}


def test_a_mount_that_fails_below_a_pattern_keeps_the_records_of_its_files(
    database: Database, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines(folder / "a.jsonl", *record("1", "2", "3"))
    lines(folder / "mount" / "b.jsonl", *record("1", "2"))
    read(f"{folder}/**/*.jsonl")
    lines(folder / "a.jsonl", *record("1", "2"))
    break_off(monkeypatch, "mount")
    assert "mount/ was rejected" in (read(f"{folder}/**/*.jsonl").not_pruned or "")
    assert len(present(database)) == 5
    enqueued = read(f"{folder}/**/*.jsonl", prune_rejected="keep")
    assert (enqueued.counts.vanished, enqueued.not_pruned) == (1, None)
    assert present(database).keys() == {"a.jsonl#1", "a.jsonl#2", "mount/b.jsonl#1", "mount/b.jsonl#2"}


def test_a_mount_that_is_empty_marks_no_more_than_prune_max_allows(
    database: Database, read: Read, tmp_path: Path
) -> None:
    folder = write(tmp_path / "notes", "a.txt", *(f"mount/{n}.txt" for n in range(9)))
    read(folder)
    for path in (folder / "mount").iterdir():
        path.unlink()
    with pytest.raises(StorageError, match=r"9 of the 10 documents.*--prune-max") as refused:
        read(folder)
    assert len(present(database)) == 10
    status = read_status(database, 2)
    assert (status.state, status.reason) == ("stopped", str(refused.value))
    assert read(folder, prune_max=90).counts.vanished == 9
    assert present(database).keys() == {"a.txt"}


def test_a_rejected_record_and_an_empty_source_stop_pruning_and_the_reason_is_said(
    database: Database, read: Read, tmp_path: Path
) -> None:
    path = tmp_path / "corpus.jsonl"
    read(lines(path, *record("a", "b", "c", "d")))
    nothing_missing = read(lines(path, *record("a", "b", "c", "d"), "{}"))
    assert (nothing_missing.counts.rejected, nothing_missing.not_pruned) == (1, None)
    alone = read(lines(path, *record("a", "b", "c"), {"id": "d", "text": None})).not_pruned or ""
    assert alone.startswith("1 document that the source lacks was not marked as vanished: ")
    enqueued = read(lines(path, *record("a", "b"), {"id": "c", "text": None}))
    assert present(database).keys() == {"a", "b", "c", "d"}
    reason = enqueued.not_pruned or ""
    assert reason.startswith("2 documents that the source lacks were not marked as vanished: ")
    assert "corpus.jsonl:3 was rejected" in reason
    assert "--prune-rejected keep" in reason
    assert read_status(database, enqueued.id).not_pruned == reason
    unreadable_id = read(lines(path, *record("a", "b"), '{"text": "cut o'), prune_rejected="keep")
    assert present(database).keys() == {"a", "b", "c", "d"}
    assert "corpus.jsonl:3 was rejected, and its id cannot be read" in (unreadable_id.not_pruned or "")
    empty = read(lines(path), prune_max=100)
    assert present(database).keys() == {"a", "b", "c", "d"}
    assert "no records" in (empty.not_pruned or "")


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "c", "text": None},
        {"id": "c", "body": "no text"},
        '{"id": "c", "text": "cut o',
        '{"n": [1, {"id": "d"}], "id": "c", "text": NaN}',
    ],
)
def test_what_was_rejected_keeps_its_old_version_and_what_is_gone_is_marked(
    database: Database, read: Read, tmp_path: Path, bad: dict[str, Any] | str
) -> None:
    path = tmp_path / "corpus.jsonl"
    read(lines(path, *record("a", "b", "c", "d")))
    enqueued = read(lines(path, *record("a", "b"), bad), prune_rejected="keep")
    assert (enqueued.counts.vanished, enqueued.not_pruned) == (1, None)
    assert present(database) == {key: f"text {key}" for key in "abc"}
    assert read_status(database, enqueued.id).not_pruned is None


@pytest.mark.parametrize("bad", ["c,text,c", "c"])
def test_a_row_with_too_many_or_too_few_fields_keeps_its_old_version(
    database: Database, read: Read, tmp_path: Path, bad: str
) -> None:
    path = tmp_path / "corpus.csv"
    read(lines(path, "id,text", *(f"{key},text {key}" for key in "abcd")))
    enqueued = read(lines(path, "id,text", "a,text a", "b,text b", bad), prune_rejected="keep")
    assert (enqueued.counts.vanished, enqueued.not_pruned) == (1, None)
    assert present(database).keys() == {"a", "b", "c"}


def test_a_file_of_several_that_cannot_be_read_keeps_its_documents(
    database: Database, read: Read, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    lines(folder / "a.jsonl", *record("1", "2"))
    lines(folder / "b.jsonl", *record("1", "2"))
    lines(folder / "c.csv", "id,text", "1,one")
    read(f"{folder}/*")
    lines(folder / "a.jsonl", *record("1"))
    lines(folder / "b.jsonl", '{"body": "no text"}')
    enqueued = read(f"{folder}/*", prune_rejected="keep")
    assert (enqueued.counts.vanished, enqueued.not_pruned) == (1, None)
    assert present(database).keys() == {"a.jsonl#1", "b.jsonl#1", "b.jsonl#2", "c.csv#1"}


def test_a_source_that_breaks_off_marks_nothing(database: Database, read: Read, tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    read(lines(path, "id,text", *(f"{key},text {key}" for key in "abcd")))
    for options in ({}, {"prune_rejected": "keep"}):
        enqueued = read(lines(path, "id,text", "a,text a", "b,text b", '"c'), **options)
        assert len(present(database)) == 4
        assert "corpus.csv:4 was rejected" in (enqueued.not_pruned or "")


def test_the_first_reading_of_another_source_says_that_the_documents_of_the_earlier_one_stay(
    database: Database, read: Read, tmp_path: Path
) -> None:
    read(lines(tmp_path / "old.jsonl", *record("a", "b")))
    new = lines(tmp_path / "new.jsonl", *record("b", "c"))
    first, again = read(new), read(new)
    assert present(database).keys() == {"a", "b", "c"}
    assert "Documents of other sources stay in the corpus (a): to leave them out, read" in (first.not_pruned or "")
    assert read_status(database, first.id).not_pruned == first.not_pruned
    assert again.not_pruned is None


def test_a_sample_is_never_pruned_by_option_nor_in_a_pipeline(read: Read, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="--prune and --limit do not go together"):
        read(lines(tmp_path / "corpus.jsonl", *record("a")), limit=1)
    text = 'name = "n"\ncorpus.source = "a.jsonl"\ncorpus.limit = 3\ncorpus.prune = true\n'
    with pytest.raises(WorkerError, match=r"n\.toml: corpus\.prune and limit do not go together"):
        parse(text + '[[step]]\nname = "s"\ntask = "embed"\n', Path("n.toml"))
