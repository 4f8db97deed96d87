"""Sources that are one file of records, on disk or elsewhere, and standard input."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from io import BufferedReader, FileIO
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from docmill.storage.readers import jsonl, streams
from docmill.storage.readers.errors import BrokenStream, finding_bugs
from docmill.storage.readers.records import (
    HEAD_ROWS,
    Record,
    Rejection,
    Row,
    RowReader,
    Rows,
    SourceOptions,
    document,
    find_missing_field,
    refuse_options,
)
from docmill.storage.readers.streams import Counted, Decompress, buffered, open_regular, path_text


class Source(ABC):
    """A corpus as it is read. `name` is canonical: an absolute path, or `-`.

    `ignored` counts the files that were left out so far, by suffix. `reasons` says, by suffix, why files of a kind
    that docmill reads were left out; each names the first such file. `takes_encoding` is False if --encoding has no
    meaning for the source.
    """

    name: str
    ignored: Mapping[str, int] = MappingProxyType({})
    reasons: Mapping[str, str] = MappingProxyType({})
    takes_encoding = True

    @property
    def bytes_read(self) -> int:
        """The number of bytes read so far, as they lie on disk; `size_bytes()` is their total."""
        return 0

    def size_bytes(self) -> int | None:
        """Return the size in bytes; None if it is unknown."""
        return None

    @abstractmethod
    def records(self) -> Iterator[Record | Rejection]:
        """Yield every record in order, lazily. A file or folder can be read again; standard input cannot."""


Opened = FileIO | BufferedReader


@dataclass(frozen=True)
class SourceFile:
    """A file to read, on disk or elsewhere. `name` is canonical; keys and messages use `place`."""

    name: str
    place: str
    size_bytes: int | None
    open: Callable[[], Opened]


def on_disk(path: Path, place: str | None = None, *, follow: bool = True) -> SourceFile:
    """Return a regular file. Without ``follow``, a path with a symbolic link is refused.

    Raises SourceError.
    """
    with open_regular(path, follow=follow) as file:
        size = file.seek(0, os.SEEK_END)
    path = path.resolve() if follow else path
    return SourceFile(path_text(path), path_text(place or path.name), size, lambda: open_regular(path, follow=follow))


class RowSource(Source):
    """A source of rows. Its first ones are read when it is opened, so that a wrong field name is found.

    `name` is the source's own; keys and messages use `place`. `fields` are those of the first row.
    """

    def __init__(self, name: str, place: str, options: SourceOptions) -> None:
        self.name = name
        self._place = place
        self._options = options
        with closing(self._rows()) as rows:
            peeked = check_names(rows, place, options)
        self.fields = next((frozenset(row.fields) for row in peeked if isinstance(row, Row)), frozenset[str]())

    def records(self) -> Iterator[Record | Rejection]:
        with closing(self._rows()) as rows:
            yield from documents(rows, self._place, self._options)

    @abstractmethod
    def _rows(self) -> Rows:
        """Yield every row, from the first one."""


class FileSource(RowSource):
    """A file, plain or compressed, with the reader for its name."""

    def __init__(
        self, content: SourceFile, read_rows: RowReader, decompress: Decompress | None, options: SourceOptions
    ) -> None:
        self._content = content
        self._read_rows = read_rows
        self._decompress = decompress
        super().__init__(content.name, content.place, options)
        self._counted: Counted | None = None

    @property
    def bytes_read(self) -> int:
        read = self._counted.bytes_read if self._counted else 0
        size = self._content.size_bytes
        return read if size is None else min(read, size)  # parts of a Parquet file are read twice

    def size_bytes(self) -> int | None:
        return self._content.size_bytes

    def _rows(self) -> Rows:
        with self._content.open() as file:
            self._counted = counted = Counted(file)
            rows = self._read_rows(buffered(counted, self._decompress), self._place, self._options)
            yield from until_broken(rows, lambda: f"{self._place}@{counted.bytes_read}")


def source_of_records(
    read_rows: RowReader,
    decompress: Decompress | None,
    taken: tuple[str, ...],
    content: SourceFile,
    options: SourceOptions,
) -> FileSource:
    """Return the source of a file of records; `taken` are the options of reading that it may have."""
    refuse_options(content.place, options, *taken)
    if options.sheet is not None and "sheet" in taken:
        # Records without an id are named for their places, and two sheets are two corpora.
        of_sheet = f"[{options.sheet}]"
        content = replace(content, name=content.name + of_sheet, place=content.place + of_sheet)
    return FileSource(content, read_rows, decompress, options)


class StreamSource(Source):
    """JSON lines from standard input."""

    name = "-"

    def __init__(self, stream: BinaryIO, options: SourceOptions) -> None:
        self._counted = Counted(stream)
        rows = streams.of_text(jsonl.rows)(buffered(self._counted), self.name, options)
        until_end = until_broken(rows, lambda: f"{self.name}@{self._counted.bytes_read}")
        self._records = read_once(until_end, self.name, options)

    @property
    def bytes_read(self) -> int:
        return self._counted.bytes_read

    def records(self) -> Iterator[Record | Rejection]:
        return self._records


def check_names(rows: Rows, name: str, options: SourceOptions) -> list[Row | Rejection]:
    """Return the rows up to the first with all named fields. Raises FieldUnknown if there is none."""
    peeked: list[Row | Rejection] = []
    names: list[list[str]] = []
    with finding_bugs(name):
        for row in islice(rows, HEAD_ROWS):
            peeked.append(row)
            if isinstance(row, Row):
                names.append(list(row.fields))
                if find_missing_field(names, options) is None:
                    return peeked
    if (error := find_missing_field(names, options)) is not None:
        raise error
    return peeked


def until_broken(rows: Rows, where: Callable[[], str]) -> Rows:
    """Yield the rows. If they break off, yield a fatal rejection that names the last row."""
    last = ""
    try:
        for row in rows:
            last = row.where
            yield row
    except (BrokenStream, OSError) as error:
        reason = str(error) if isinstance(error, BrokenStream) else f"it cannot be read on: {error.strerror}"
        after = f"after {last}" if last else "at its beginning"
        yield Rejection(where(), f"{reason}, {after}; nothing more was read", fatal=True)


def documents(rows: Iterable[Row | Rejection], name: str, options: SourceOptions) -> Iterator[Record | Rejection]:
    """Yield the rows as documents, up to the limit."""
    items = (document(row, name, options) if isinstance(row, Row) else row for row in rows)
    with finding_bugs(name):
        yield from up_to(options.limit, items)


def read_once(rows: Rows, name: str, options: SourceOptions) -> Iterator[Record | Rejection]:
    """Return the documents of rows that cannot be read again. The first rows are read at once, to check the names."""
    return documents(chain(check_names(rows, name, options), rows), name, options)


def up_to(limit: int | None, items: Iterator[Record | Rejection]) -> Iterator[Record | Rejection]:
    """Yield up to `limit` records, at least one, and the rejections before the last of them; None is no limit."""
    left = limit
    for item in items:
        yield item
        if left is not None and isinstance(item, Record):
            left -= 1
            if left == 0:
                return
