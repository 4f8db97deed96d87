"""A folder of documents, whose keys are their paths below it, and of files with records or documents."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from docmill.storage.readers.documents import NO_SUFFIX, DocumentReader
from docmill.storage.readers.errors import FieldUnknown, SourceEmpty, SourceError, SourceUnreadable
from docmill.storage.readers.files import Content, Source
from docmill.storage.readers.many_files import (
    LEFT_OUT,
    FilesSource,
    Walk,
    is_hidden,
    with_file,
    within,
    without_results,
)
from docmill.storage.readers.records import Record, Rejection, SourceOptions, without_metadata
from docmill.storage.readers.registry import document_suffixes, missing
from docmill.storage.readers.streams import open_regular, printable

Open = Callable[[Content, SourceOptions], Source]


class FolderSource(FilesSource):
    """The documents below `root`, in the order of their paths, listed one folder at a time.

    `reader_of` returns the reader for a file's name, if there is one.

    Raises SourceEmpty if there is no document, and FieldUnknown if there are only records that lack a field. Hidden
    files and folders are skipped, and Office's locks. `ignored` counts files of other kinds, of records without the
    text, archives without documents, and files whose library is missing; `reasons` has the reasons. A link that leads
    out of the root, a link to a folder, a pipe, a socket and a device are rejected and never opened.
    """

    def __init__(self, root: Path, options: SourceOptions, reader_of: Callable[[str], Open | None]) -> None:
        self._root = root.resolve()
        self._reader_of = reader_of
        self._suffixes = document_suffixes()
        super().__init__(printable(self._root), replace(options, one_of_many=True), self._found, self._open)

    def _check(self) -> None:
        """Look for a file that can be read, and raise the reason if there is none."""
        refused: SourceError | None = None
        for found in self._found():
            if isinstance(found, Rejection):
                return
            path, file = found
            if self._is_document(path):
                without_metadata(self.name, self._options)
                return
            try:
                self._open(file, self._options, path)
            except SourceError as error:
                if isinstance(error, FieldUnknown) and self._options.meta_fields:
                    raise
                refused = refused or with_file(path, error)
            else:
                return
        others = ", ".join(f"{n} {suffix}" for suffix, n in self.ignored.most_common(5))
        raise refused or SourceEmpty(
            f"no {', '.join(self._suffixes)}, .jsonl, .csv, .zip or other files in {self.name} that are read"
            + (f" (it has {others})" if others else "")
            + missing(self.ignored)
        )

    def _items(self) -> Iterator[Record | Rejection]:
        with closing(DocumentReader(self._options)) as self._documents:
            yield from super()._items()

    def _read(self, path: str, file: Path) -> Iterator[Record | Rejection]:
        if not self._is_document(path):
            yield from super()._read(path, file)
            return
        before = self._documents.bytes_read
        # Links were resolved before and are not followed again, since they may have changed.
        item = self._documents.read(path, partial(open_regular, file, follow=False))
        self._bytes_before, self._current = self.bytes_read + self._documents.bytes_read - before, None
        yield item

    def _refused(self, path: str, error: SourceError) -> Iterator[Rejection]:
        # A prompt that reads metadata gets every field of it, or the file is rejected.
        if isinstance(error, LEFT_OUT) and not (isinstance(error, FieldUnknown) and self._options.meta_fields):
            suffix = Path(path).suffix
            self.ignored[suffix] += 1
            self.reasons.setdefault(suffix, str(with_file(path, error)))
        else:
            yield self._within(path, Rejection(printable(path), str(error), fatal=True))

    def _is_document(self, path: str) -> bool:
        return Path(path).suffix.lower() in self._suffixes

    def _open(self, file: Path, options: SourceOptions, path: str) -> Source:
        opened = partial(open_regular, file, follow=False)
        with opened() as found:
            size = found.seek(0, os.SEEK_END)
        reader = self._reader_of(Path(path).name)
        assert reader is not None
        content = Content(printable(file), printable(path), size, opened)
        source = reader(content, options)
        return without_results(source)

    def _found(self) -> Walk:
        """Yield each document's path below the root and the file to open, in the order of the paths."""
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
        """Yield the entries of one folder (`""` or `a/b/`), sorted: folders by name, files with their path."""
        found: list[tuple[str, bool]] = []  # a million names take about 100 MB; DirEntry objects take far more
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
        if is_hidden(entry.name):
            return None
        if entry.is_dir(follow_symlinks=False):
            return entry.name + "/"  # so that a folder sorts as its documents' paths do
        is_read = self._is_document(entry.name) or self._reader_of(entry.name) is not None
        if is_read or (entry.is_symlink() and entry.is_dir()):
            return entry.name
        self.ignored[Path(entry.name).suffix or NO_SUFFIX] += 1
        return None
