"""A folder of parts that docmill wrote (`storage.results.parts`), read as one source by its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from storage.readers.errors import SourceEmpty, SourceError, SourceUnreadable
from storage.readers.folder import within
from storage.readers.records import Rejection
from storage.readers.streams import open_regular, printable
from storage.writers.parts_manifest import NAME, Manifest, from_json

_GOES_ON = "the `docmill results` command that began them writes what is missing"
_MOST_BYTES = 64 * 2**20  # more than a manifest with the most parts


class Parts:
    """The parts of an export, in order. Raises SourceUnreadable if a part is missing or cut short."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        if not manifest.complete:
            raise SourceUnreadable(f"{printable(root)} has not all of its parts; {_GOES_ON}")
        if not manifest.parts:
            raise SourceEmpty(f"{printable(root)} has no results in it")
        self._root = root.resolve()
        files = [part.files[0] for part in manifest.parts]
        for file in files:
            path = self._root / file.name
            if not path.is_file() or path.stat().st_size != file.bytes:
                raise SourceUnreadable(f"{printable(path)} is not as it was written; {_GOES_ON}")
        self._names = [file.name for file in files]

    def __str__(self) -> str:
        return printable(self._root)

    def walk(self) -> Iterator[tuple[str, Path] | Rejection]:
        """Yield each part's name, and the path to open."""
        for name in self._names:
            yield within(self._root, name)


def parts_in(folder: Path) -> Parts | None:
    """Return the parts of a folder; None if it is no folder of parts."""
    try:
        with open_regular(folder / NAME) as file:
            raw = file.read(_MOST_BYTES + 1)
    except (SourceError, OSError):
        return None
    manifest = from_json(raw) if len(raw) <= _MOST_BYTES else None
    return None if manifest is None else Parts(folder, manifest)
