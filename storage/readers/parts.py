"""A folder of parts that docmill wrote (`storage.results.parts`), read as one source by its manifest."""

from __future__ import annotations

from pathlib import Path

from docmill.storage.readers.errors import SourceEmpty, SourceError, SourceUnreadable
from docmill.storage.readers.streams import open_regular, printable
from docmill.storage.writers.parts_manifest import NAME, from_json

_GOES_ON = "the `docmill results` command that began them writes what is missing"
_MOST_BYTES = 64 * 2**20  # more than a manifest with the most parts


def parts_in(folder: Path) -> list[str] | None:
    """Return the files of an export's parts, in order; None if it is no folder of parts.

    Raises SourceUnreadable if a part is missing or cut short, and SourceEmpty without parts.
    """
    try:
        with open_regular(folder / NAME) as opened:
            raw = opened.read(_MOST_BYTES + 1)
    except (SourceError, OSError):
        return None
    if len(raw) > _MOST_BYTES or (manifest := from_json(raw)) is None:
        return None
    if not manifest.complete:
        raise SourceUnreadable(f"{printable(folder)} has not all of its parts; {_GOES_ON}")
    if not manifest.parts:
        raise SourceEmpty(f"{printable(folder)} has no results in it")
    files = [part.files[0] for part in manifest.parts]
    for file in files:
        path = folder.resolve() / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise SourceUnreadable(f"{printable(path)} is not as it was written; {_GOES_ON}")
    return [file.name for file in files]
