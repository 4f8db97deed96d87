"""Laws of any results, any size of the parts, and any place where an export is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docmill.storage.results import parts
from docmill.storage.results.parts import ExportProgress
from docmill.storage.results.results import DocumentPlace, Placed
from docmill.storage.writers import Target
from docmill.storage.writers.parts_manifest import Manifest
from tests.storage.results.test_parts import Cut, contents
from tests.storage.writers.test_writers import ROWS


class Folder:
    """A folder for the export of some rows."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]], form: str, part_documents: int) -> None:
        self.path = folder
        self._rows = [
            ((n // 2, n), row) for n, row in enumerate(rows)
        ]  # the first numbers of two places may be equal
        self._target = Target.of(folder, form)
        self._wanted = Manifest(1, "books", 0.5, None, form, part_documents, "0.1.0", {}, {"a": {"done": len(rows)}})

    def _after(self, place: DocumentPlace | None) -> Iterator[Placed]:
        return iter([row for row in self._rows if place is None or row[0] > place])

    def export(self, progress: ExportProgress | None = None) -> parts.ExportedFolder:
        return parts.write(self._target, self._wanted, self._after, progress=progress)

    def lines(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.path.glob("part-*")))


@pytest.fixture(autouse=True, scope="module")
def unsynced() -> Iterator[None]:
    """Do not sync the thousands of files of this module to the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("docmill.storage.writers.formats.os.fsync", lambda handle: None)
        yield


@st.composite
def cuts(draw: st.DrawFn) -> tuple[str, int]:
    """Draw a place where an export is interrupted: at a row, or at the n-th replacement of the manifest."""
    return draw(st.sampled_from(["row", "manifest"])), draw(st.integers(0, 8))


def cut_off(folder: Folder, where: str, n: int) -> None:
    """Interrupt an export, unless it ends before that."""
    save, times = parts._save, iter(range(100))

    def failing(path: Path, manifest: Manifest) -> None:
        if next(times) == n:
            raise KeyboardInterrupt
        save(path, manifest)

    with pytest.MonkeyPatch.context() as patch:
        if where == "manifest":
            patch.setattr(parts, "_save", failing)
        try:
            folder.export(Cut(n) if where == "row" else None)
        except KeyboardInterrupt:
            return


@settings(max_examples=50)
@given(
    rows=st.just([]) | st.tuples(ROWS, ROWS).map(lambda both: both[0] + both[1]),
    part_documents=st.integers(1, 6),
    form=st.sampled_from(["jsonl", "csv"]),
    interruptions=st.lists(cuts(), max_size=4),
)
def test_an_export_that_was_cut_off_anywhere_ends_with_every_row_once(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    part_documents: int,
    form: str,
    interruptions: list[tuple[str, int]],
) -> None:
    base = tmp_path_factory.mktemp("out")
    whole = Folder(base / "whole", rows, form, part_documents)
    written = whole.export()
    assert (written.documents, written.parts) == (len(rows), -(-len(rows) // part_documents))
    folder = Folder(base / "cut", rows, form, part_documents)
    for where, n in interruptions:
        cut_off(folder, where, n)
    folder.export()
    assert contents(folder.path) == contents(whole.path)
    if form == "jsonl":
        Target.of(base / "single.jsonl").write(rows)
        assert whole.lines() == (base / "single.jsonl").read_bytes()
