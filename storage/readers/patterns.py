"""Patterns such as `data/**/*.jsonl`: the files that match, in the order of their paths."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from docmill.storage.readers.many_files import Walk, is_hidden, within
from docmill.storage.readers.records import Rejection
from docmill.storage.readers.streams import printable

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

    def walk(self) -> Walk:
        """Yield each matching file's path below the root, and the path to open, in the order of the paths."""
        yield from self._below("", self._closed({0}))

    def _below(self, folder: str, states: frozenset[int]) -> Walk:
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
            if is_hidden(name) and not part.startswith(name[0]):
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
