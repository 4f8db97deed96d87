"""Readers that other packages register as entry points of the group `docmill.readers`.

An entry point `.xyz` is a function for files with this suffix, `(stream, name, options) -> rows`. One named `xyz`
opens `xyz://…`: `(url, options) -> source`. The kinds of `storage.readers.registry` take precedence.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, BinaryIO

from docmill.storage.readers.errors import BrokenStream, SourceError, SourceUnreadable, SourceUnsupported
from docmill.storage.readers.files import Source
from docmill.storage.readers.records import Rejection, Row, RowReader, Rows, SourceOptions

GROUP = "docmill.readers"


def row_reader(suffix: str) -> RowReader | None:
    """Return the function that reads files of a suffix (`.xyz`). Raises SourceUnsupported if it does not load."""
    found = _loaded(suffix)
    if found is None:
        return None
    read_rows, who = found

    def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
        try:
            for row in read_rows(stream, name, options):
                if not isinstance(row, Row | Rejection):
                    raise TypeError
                yield row
        except (SourceError, BrokenStream, OSError):
            raise
        except Exception as error:
            raise SourceUnreadable(f"{name}: {who} failed ({type(error).__name__})") from error

    return rows


def opener(scheme: str) -> Callable[[str, SourceOptions], Source] | None:
    """Return the function that opens URLs of a scheme (`xyz`). Raises SourceUnsupported if it does not load."""
    found = _loaded(scheme)
    if found is None:
        return None
    open_url, who = found

    def opened(url: str, options: SourceOptions) -> Source:
        try:
            source: Source = open_url(url, options)
        except SourceError:
            raise
        except Exception as error:  # its message may contain the URL's password
            raise SourceUnreadable(f"{scheme}://: {who} failed ({type(error).__name__})") from error
        if not isinstance(getattr(source, "name", None), str) or not callable(getattr(source, "records", None)):
            raise SourceUnreadable(f"{scheme}://: {who} gives no source")
        return source

    return opened


def _loaded(name: str) -> tuple[Callable[..., Any], str] | None:
    """Return the reader that a package registered under a name, and a description for messages."""
    found = list(entry_points(group=GROUP, name=name)) if name else []
    if not found:
        return None
    if len(found) > 1:
        packages = " and ".join(sorted({_package(entry) for entry in found}))
        raise SourceUnsupported(f"{name} is read by more than one reader, of {packages}; uninstall what is too much")
    who = f"the reader {found[0].value} of {_package(found[0])}"
    try:
        reader = found[0].load()
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise SourceUnsupported(f"{name}: {who} cannot be loaded ({type(error).__name__}: {said})") from error
    if not callable(reader):
        raise SourceUnsupported(f"{name}: {who} is no function")
    return reader, who


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a package without a name"
