"""A folder of .txt and .md files: each file is a document, its path below the folder is its key."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage.normalize import bom_length, decode, is_utf16, normalize
from storage.readers.errors import SourceEmpty, SourceError, SourceUnreadable
from storage.readers.records import MAX_ID_BYTES, Record, Rejection, SourceOptions, id_too_long, too_long
from storage.readers.streams import kind, open_regular, printable

SUFFIXES = (".txt", ".md")


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
        if next(self._walk(), None) is None:
            others = ", ".join(f"{n} {suffix}" for suffix, n in self.ignored.most_common(5))
            raise SourceEmpty(f"no .txt or .md files in {self.name}" + (f" (it has {others})" if others else ""))

    def size_bytes(self) -> int | None:
        """None: knowing it would take a walk through the whole folder."""
        return None

    def records(self) -> Iterator[Record | Rejection]:
        self.bytes_read = 0
        self.ignored.clear()
        left = self._options.limit
        for found in self._walk():
            if left == 0:
                return
            item = found if isinstance(found, Rejection) else self._read(*found)
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
                yield self._resolve(path)
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
            yield Rejection(printable(below), f"the folder cannot be read: {error.strerror}")
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
        if suffix in SUFFIXES or (entry.is_symlink() and entry.is_dir()):
            return entry.name
        self.ignored[suffix or "without a suffix"] += 1
        return None

    def _resolve(self, path: str) -> tuple[str, Path] | Rejection:
        """The file that something other than a plain file leads to, or why it is not opened."""
        full = self._root / path
        try:
            target = full.resolve(strict=True)
            mode = target.stat().st_mode
        except (OSError, RuntimeError):
            return Rejection(printable(path), "a link that leads nowhere")
        if not target.is_relative_to(self._root):
            return Rejection(printable(path), "a link that leads out of the folder")
        if stat.S_ISDIR(mode):
            return Rejection(printable(path), "a link to a folder; what is in it is read in its own place")
        if not stat.S_ISREG(mode):
            return Rejection(printable(path), f"{kind(mode)}, not a file")
        return path, target

    def _read(self, path: str, file: Path) -> Record | Rejection:
        where = printable(path)
        limit = self._options.max_record_bytes
        try:
            # A link was followed above and is not followed again: it may have been changed since.
            with open_regular(file, follow=False) as opened:
                raw = opened.read(limit + 1)
        except SourceError as error:
            return Rejection(where, str(error))
        except OSError as error:
            return Rejection(where, f"cannot be read: {error.strerror}")
        self.bytes_read += len(raw)
        if len(raw) > limit:
            return Rejection(where, too_long(limit))
        if is_utf16(raw):
            return Rejection(where, "UTF-16; only UTF-8 is read")
        return _document(where, raw)


def _document(where: str, raw: bytes) -> Record | Rejection:
    if len(where.encode()) > MAX_ID_BYTES:
        return Rejection(where, id_too_long(where))
    skip = bom_length(raw)
    text, flags = decode(raw[skip:], skip)
    text, replaced = normalize(text)
    meta: dict[str, Any] = {}
    return Record(where, text, meta, flags + replaced, where)
