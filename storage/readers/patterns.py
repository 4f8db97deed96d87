"""Patterns such as `data/**/*.jsonl`: the files that match, in the order of their paths, as one source."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from storage.readers.documents import NO_SUFFIX
from storage.readers.errors import FieldUnknown, KindUnknown, SourceEmpty, SourceError
from storage.readers.files import Source
from storage.readers.folder import of_file, within
from storage.readers.records import Record, Rejection, SourceOptions
from storage.readers.streams import printable

OpenFile = Callable[[Path, SourceOptions, str], Source]
_ANY_DEPTH = "**"


def is_pattern(source: str) -> bool:
    """Return True if `*`, `?` or `[` make the source a pattern: no file has this name."""
    return _special(source) and not os.path.lexists(source) and _wildcard(_parts(source)) is not None


class Pattern:
    """A path with `*`, `?` and `[…]` within a name, and `**` for folders at any depth, or none.

    Only a name with a leading dot in the pattern matches one in the path. `root` is the folder before the first name
    with a wildcard.
    """

    def __init__(self, source: str) -> None:
        parts = _parts(source)
        fixed = _wildcard(parts)
        assert fixed is not None
        self.root = Path(*parts[:fixed]).resolve()
        self._parts = parts[fixed:]

    def __str__(self) -> str:
        return printable(self.root.joinpath(*self._parts))

    def matches(self, path: Path) -> bool:
        """Return True if the pattern matches this path, which need not exist."""
        if not path.is_relative_to(self.root):
            return False
        states = self._closed({0})
        for name in path.relative_to(self.root).parts:
            states = self._step(states, name)
        return len(self._parts) in states

    def walk(self) -> Iterator[tuple[str, Path] | Rejection]:
        """Yield each matching file's path below the root, and the path to open, in the order of the paths."""
        yield from self._below("", self._closed({0}))

    def _below(self, folder: str, states: frozenset[int]) -> Iterator[tuple[str, Path] | Rejection]:
        try:
            with os.scandir(self.root / folder) as entries:
                found = sorted(
                    (entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""), entry.is_symlink())
                    for entry in entries
                )
        except OSError as error:
            reason = f"the folder cannot be read: {error.strerror}"
            below = printable(folder.rstrip("/")) or None
            yield Rejection(printable(folder or self.root), reason, below=below)
            return
        for name, link in found:
            reached = self._step(states, name.rstrip("/"))
            if name.endswith("/"):
                if any(state < len(self._parts) for state in reached):
                    yield from self._below(folder + name, reached)
            elif len(self._parts) in reached:
                yield within(self.root, folder + name) if link else (folder + name, self.root / folder / name)
            elif link and reached and (self.root / folder / name).is_dir():
                where = printable(folder + name)
                yield Rejection(where, "a link to a folder is not followed", below=where)

    def _step(self, states: frozenset[int], name: str) -> frozenset[int]:
        """Return the possible numbers of matched parts after this name."""
        after = set()
        for state in states:
            if state == len(self._parts):
                continue
            part = self._parts[state]
            if name.startswith(".") and not part.startswith("."):
                continue
            if part == _ANY_DEPTH:
                after.add(state)
            elif fnmatchcase(name, part):
                after.add(state + 1)
        return self._closed(after)

    def _closed(self, states: Iterable[int]) -> frozenset[int]:
        """Add the states that are reached without a name, since `**` may match nothing."""
        closed = set(states)
        for state in sorted(closed):
            while state < len(self._parts) and self._parts[state] == _ANY_DEPTH:
                state += 1  # noqa: PLW2901
                closed.add(state)
        return frozenset(closed)


class Files(Protocol):
    """Files in a fixed order."""

    def walk(self) -> Iterator[tuple[str, Path] | Rejection]:
        """Yield each file's name in keys and messages, and the path to open."""


class FilesSource:
    """The documents of several files, each read by the reader for its name.

    The key of a record is `path#id` (`one_of_many`), without an id `path:number`; that of a file which is one
    document is its path, and that of an archive's member `path/member`. `ignored` counts files of other kinds. A file
    that cannot be opened is a rejection.

    Raises SourceEmpty if there is none, FieldUnknown for the first file, and the first file's error if none can be
    opened.
    """

    def __init__(self, files: Files, options: SourceOptions, open_file: OpenFile) -> None:
        self._files = files
        self._options = options
        self._open_file = open_file
        self.name = str(files)
        self.ignored: Counter[str] = Counter()
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
        self._bytes_before, self._current = 0, None
        left = self._options.limit
        for found in self._files.walk():
            if left == 0:
                return
            if isinstance(found, Rejection):
                yield found
                continue
            path, file = found
            try:
                source = self._open_file(file, replace(self._options, limit=left), path)
                self._bytes_before, self._current = self.bytes_read, source
                for item in source.records():
                    if left is not None and isinstance(item, Record):
                        left -= 1
                    yield self._within(path, item) if isinstance(item, Rejection) else item
                self.ignored.update(getattr(source, "ignored", {}))
            except KindUnknown:
                self.ignored[file.suffix or NO_SUFFIX] += 1
            except SourceError as error:
                yield self._within(path, Rejection(printable(path), str(error), fatal=True))

    def _within(self, path: str, rejection: Rejection) -> Rejection:
        """Return the rejection together with its file, which tells pruning the documents it may be."""
        return of_file(path, rejection) if self._options.one_of_many else rejection

    def _check(self) -> None:
        """Open the first readable file, so that a wrong field name is found before a job is made."""
        refused: SourceError | None = None
        for found in self._files.walk():
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
        if refused is not None:
            raise refused
        raise SourceEmpty(f"no file matches {self.name}")


def _parts(source: str) -> tuple[str, ...]:
    return Path(os.path.abspath(source)).parts  # noqa: PTH100 - `resolve` would follow links below the pattern


def _wildcard(parts: tuple[str, ...]) -> int | None:
    """Return the number of the first name with a wildcard, which is no name of a folder such as `letters [1916]`."""
    for n, part in enumerate(parts):
        if _special(part) and not os.path.lexists(Path(*parts[: n + 1])):
            return n
    return None


def _special(text: str) -> bool:
    return any(character in text for character in "*?[")
