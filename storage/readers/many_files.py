"""Several files as one source, and the rules for links among them."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from docmill.storage.readers.documents import NO_SUFFIX
from docmill.storage.readers.errors import FieldUnknown, KindUnknown, SourceEmpty, SourceError, SourceUnsupported
from docmill.storage.readers.files import FileSource, Source, left_out, up_to, why_left_out
from docmill.storage.readers.records import Record, Rejection, SourceOptions
from docmill.storage.readers.streams import kind, printable

OpenFile: TypeAlias = Callable[[Path, SourceOptions, str], Source]
Walk: TypeAlias = Iterator[tuple[str, Path] | Rejection]  # names in keys and messages, and the paths to open
LEFT_OUT = (FieldUnknown, SourceEmpty, SourceUnsupported)  # such a file is left out, and is no rejection
# Written by docmill beside documents; the next run must not read them as documents.
_OF_RESULTS = frozenset(("task", "tokens_in", "tokens_out", "flags"))


class FilesSource:
    """The documents of several files in a fixed order, each read by the reader for its name.

    The key of a record is `path#id` (`one_of_many`), without an id `path:number`; that of a file which is one
    document is its path, and that of an archive's member `path/member`. `ignored` counts files of other kinds. A file
    that cannot be opened is a rejection.

    Raises SourceEmpty if there is none, FieldUnknown for the first file, and the first file's error if none can be
    opened.
    """

    def __init__(self, name: str, options: SourceOptions, walk: Callable[[], Walk], open_file: OpenFile) -> None:
        self.name = name
        self.ignored: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self._options = options
        self._walk = walk
        self._open_file = open_file
        self._bytes_before = 0
        self._current: Source | None = None
        self._check()

    @property
    def bytes_read(self) -> int:
        return self._bytes_before + (self._current.bytes_read if self._current else 0)

    def size_bytes(self) -> int | None:
        """Return None: the size is known only after a look at every file."""
        return None

    def records(self) -> Iterator[Record | Rejection]:
        self.ignored.clear()
        self.reasons.clear()
        self._bytes_before, self._current = 0, None
        return up_to(self._options.limit, self._items())

    def _items(self) -> Iterator[Record | Rejection]:
        for found in self._walk():
            if isinstance(found, Rejection):
                yield found
                continue
            try:
                yield from self._read(*found)
            except SourceError as error:
                yield from self._refused(found[0], error)

    def _read(self, path: str, file: Path) -> Iterator[Record | Rejection]:
        """Yield the records of one file."""
        source = self._open_file(file, self._options, path)
        self._bytes_before, self._current = self.bytes_read, source
        try:
            for item in source.records():
                yield self._within(path, item) if isinstance(item, Rejection) else item
        finally:  # also if the limit is reached within this file
            self.ignored.update(left_out(source))
            self.reasons = {**why_left_out(source), **self.reasons}

    def _refused(self, path: str, error: SourceError) -> Iterator[Rejection]:
        """Yield the rejection of a file that cannot be opened, or count it."""
        if isinstance(error, KindUnknown):
            self.ignored[Path(path).suffix or NO_SUFFIX] += 1
        else:
            yield self._within(path, Rejection(printable(path), str(error), fatal=True))

    def _within(self, path: str, rejection: Rejection) -> Rejection:
        """Return the rejection together with its file, which tells pruning the documents it may be."""
        if not self._options.one_of_many or rejection.keys or rejection.below is not None:
            return rejection
        return replace(rejection, below=printable(path))

    def _check(self) -> None:
        """Open the first readable file, so that a wrong field name is found before a job is made."""
        refused: SourceError | None = None
        for found in self._walk():
            if isinstance(found, Rejection):
                continue
            try:
                self._open_file(found[1], self._options, found[0])
            except FieldUnknown:
                raise
            except SourceError as error:
                refused = refused or error
            else:
                return
        raise refused or SourceEmpty(f"no file matches {self.name}")


def is_hidden(name: str) -> bool:
    """Return True for a file or folder that no source reads: a hidden one, or the lock of an open Office file."""
    return name.startswith((".", "~$")) and name not in {".", ".."}


def without_results(source: Source) -> Source:
    """Return the source of one of many files. Raises SourceUnsupported for results that docmill wrote."""
    if isinstance(source, FileSource) and source.fields >= _OF_RESULTS:
        raise SourceUnsupported("it holds results that docmill wrote; to read them name the file")
    return source


def with_file(path: str, error: SourceError) -> SourceError:
    """Return the error with the name of its file."""
    said = str(error)
    return error if Path(path).name in said else type(error)(f"{printable(path)}: {said}")


def within(root: Path, path: str) -> tuple[str, Path] | Rejection:
    """Return the file that a link leads to, or the reason why it is not opened."""
    where = printable(path)
    try:
        target = (root / path).resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError):
        return Rejection(where, "a link that leads nowhere", below=where)
    if not target.is_relative_to(root):
        return Rejection(where, "a link that leads out of the folder", below=where)
    if stat.S_ISDIR(mode):
        return Rejection(where, "a link to a folder; links to folders are not followed", below=where)
    if not stat.S_ISREG(mode):
        return Rejection(where, f"{kind(mode)}, not a file", below=where)
    return path, target
