"""A folder of files, each of which is a document: its path below the folder is its key."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from storage.readers.documents import NO_SUFFIX, DocumentReader, missing, suffixes
from storage.readers.errors import SourceEmpty, SourceUnreadable
from storage.readers.records import Record, Rejection, SourceOptions
from storage.readers.streams import kind, open_regular, printable


class FolderSource:
    """The documents below `root`, in the order of their paths, listed one folder at a time.

    Raises SourceEmpty when there is none. Hidden files and folders are passed over; files of other kinds are
    counted in `ignored`. A link that leads out of the root, a link to a folder, a pipe, a socket and a device are
    rejected and never opened.
    """

    def __init__(self, root: Path, options: SourceOptions) -> None:
        self._root = root.resolve()
        self._options = options
        self.name = printable(self._root)
        self.bytes_read = 0
        self.ignored: Counter[str] = Counter()
        self._suffixes = suffixes()
        if next(self._walk(), None) is None:
            others = ", ".join(f"{n} {suffix}" for suffix, n in self.ignored.most_common(5))
            raise SourceEmpty(
                f"no {', '.join(self._suffixes)} files in {self.name}"
                + (f" (it has {others})" if others else "")
                + missing(self.ignored)
            )

    def size_bytes(self) -> int | None:
        """None: knowing it would take a walk through the whole folder."""
        return None

    def records(self) -> Iterator[Record | Rejection]:
        self.bytes_read = 0
        self.ignored.clear()
        left = self._options.limit
        with closing(DocumentReader(self._options)) as reader:
            for found in self._walk():
                if left == 0:
                    return
                if isinstance(found, Rejection):
                    item: Record | Rejection = found
                else:
                    path, file = found
                    # A link was followed before and is not followed again: it may have been changed since.
                    item = reader.read(path, partial(open_regular, file, follow=False))
                self.bytes_read = reader.bytes_read
                if left is not None and isinstance(item, Record):
                    left -= 1
                yield item

    def _walk(self) -> Iterator[tuple[str, Path] | Rejection]:
        """Each document's path below the root and the file to open for it, in the order of the paths."""
        folders = [self._list("")]
        while folders:
            path = next(folders[-1], None)
            if path is None:
                folders.pop()
            elif isinstance(path, str) and path.endswith("/"):
                folders.append(self._list(path))
            elif isinstance(path, str):
                yield within(self._root, path)
            else:
                yield path

    def _list(self, below: str) -> Iterator[str | tuple[str, Path] | Rejection]:
        """What one folder (`""` or `a/b/`) holds, sorted: folders by name, plain files with what to open."""
        found: list[tuple[str, bool]] = []  # names alone: a million of them take some 100 MB, as DirEntry far more
        try:
            with os.scandir(self._root / below) as entries:
                for entry in entries:
                    if (name := self._candidate(entry)) is not None:
                        found.append((name, entry.is_file(follow_symlinks=False)))
        except OSError as error:
            if not below:
                raise SourceUnreadable(f"{self.name}: {error.strerror}") from error
            where = printable(below)
            yield Rejection(where, f"the folder cannot be read: {error.strerror}", below=where.rstrip("/"))
        found.sort()
        for name, plain in found:
            path = below + name
            yield (path, self._root / path) if plain else path

    def _candidate(self, entry: os.DirEntry[str]) -> str | None:
        if entry.name.startswith("."):
            return None
        if entry.is_dir(follow_symlinks=False):
            return entry.name + "/"  # sorts a folder where its documents' paths sort
        suffix = Path(entry.name).suffix
        if suffix.lower() in self._suffixes or (entry.is_symlink() and entry.is_dir()):
            return entry.name
        self.ignored[suffix or NO_SUFFIX] += 1
        return None


def within(root: Path, path: str) -> tuple[str, Path] | Rejection:
    """The file that something other than a plain file leads to, or why it is not opened."""
    found = _followed(root, path)
    return replace(found, below=found.where) if isinstance(found, Rejection) else found


def _followed(root: Path, path: str) -> tuple[str, Path] | Rejection:
    try:
        target = (root / path).resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError):
        return Rejection(printable(path), "a link that leads nowhere")
    if not target.is_relative_to(root):
        return Rejection(printable(path), "a link that leads out of the folder")
    if stat.S_ISDIR(mode):
        return Rejection(printable(path), "a link to a folder; what is in it is read in its own place")
    if not stat.S_ISREG(mode):
        return Rejection(printable(path), f"{kind(mode)}, not a file")
    return path, target
