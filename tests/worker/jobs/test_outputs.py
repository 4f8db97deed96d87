"""Files that cannot take the results are refused before any work is done for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from docmill.worker.errors import WorkerError
from docmill.worker.jobs.outputs import check_kinds, require_target


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()


@pytest.mark.parametrize(
    ("out", "file_format", "says"),
    [
        ("no/such/folder.jsonl", None, "--out: there is no folder"),
        ("folder", "jsonl", "is a folder; name a file"),
        ("/proc/x", "jsonl", "--out: cannot write in /proc"),
        ("a.npy", None, "only vectors are written as .npy"),
        (None, "csv", "name it with --out"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(out: str | None, file_format: str | None, says: str) -> None:
    with pytest.raises(WorkerError, match=says):
        check_kinds(require_target(None if out is None else Path(out), file_format), ["summarize"])


@pytest.mark.parametrize(("out", "says"), [("-", "parts need a folder"), ("no/out", "there is no folder")])
def test_a_folder_that_cannot_take_parts_is_refused(out: str, says: str) -> None:
    with pytest.raises(WorkerError, match=f"nightly.toml: {says}"):
        require_target(Path(out), parts=True, name="nightly.toml")


@pytest.mark.parametrize(
    ("source", "out", "file_format", "says"),
    [
        ("in.ids.jsonl", "in.ids.jsonl", None, "is the source, which would be lost"),
        ("in.ids.jsonl", "in.npy", None, "is the source, which would be lost"),
        ("sqlite:///in.db?SELECT 1", "in.db", "jsonl", "is the source, which would be lost"),
        (".", "a.txt", "jsonl", "would be one of the source's documents"),
        ("*.jsonl", "a.jsonl", None, "would be one of the source's documents"),
    ],
)
def test_a_file_that_is_of_the_source_is_refused(source: str, out: str, file_format: str | None, says: str) -> None:
    with pytest.raises(WorkerError, match=says):
        require_target(Path(out), file_format, source=source)
