"""Sources: a file, a folder or standard input as records, and the choice between them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from io import BufferedReader
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Protocol

from storage.normalize import is_utf16
from storage.readers import delimited, jsonl
from storage.readers.errors import SourceMissing, SourceUnreadable, SourceUnsupported
from storage.readers.folder import FolderSource
from storage.readers.records import HEAD_ROWS, Record, Rejection, Row, Rows, SourceOptions, document, misnamed
from storage.readers.streams import (
    BrokenStream,
    Counted,
    Decompressor,
    Gunzip,
    Unzstd,
    buffered,
    is_folder,
    open_regular,
    printable,
)

RowReader = Callable[[BinaryIO, str, SourceOptions], Rows]

# A new kind of file is one function that turns its bytes into rows, and one line here.
FORMATS: dict[str, RowReader] = {
    ".jsonl": jsonl.rows,
    ".ndjson": jsonl.rows,
    ".csv": delimited.rows,
    ".tsv": partial(delimited.rows, delimiter="\t"),
}
COMPRESSIONS: dict[str, Callable[[], Decompressor]] = {".gz": Gunzip, ".zst": Unzstd}
READABLE = ".jsonl, .csv and .tsv files (also .gz or .zst), a folder of .txt and .md files, and - for JSON lines"


class Source(Protocol):
    """A corpus as it comes in. `name` is canonical: an absolute path, or `-`."""

    name: str

    @property
    def bytes_read(self) -> int:
        """How far the reading is, in bytes as they lie on disk, to be held against `size_bytes()`."""

    def size_bytes(self) -> int | None:
        """None where nobody can know."""

    def records(self) -> Iterator[Record | Rejection]:
        """Every record in order, lazily. A folder or file can be read again; standard input only once."""


def open_source(source: str, options: SourceOptions, *, stdin: BinaryIO | None = None) -> Source:
    """The reader for what the user named. The first records have been looked at, so that a wrong field name shows.

    Raises SourceMissing, SourceUnreadable, SourceUnsupported, SourceEmpty and FieldUnknown.
    """
    if source == "-":
        return StreamSource(sys.stdin.buffer if stdin is None else stdin, options)
    if not source:
        raise SourceMissing("the source is empty: name a file, a folder, or - for standard input")
    path = Path(source)
    if is_folder(path):
        return FolderSource(path, options)
    return FileSource(path, options)


class FileSource:
    """One file, plain or compressed, read by the reader that its name asks for."""

    def __init__(self, path: Path, options: SourceOptions) -> None:
        with open_regular(path) as file:  # what is missing or unreadable comes before what is unsupported
            self._size_bytes = file.seek(0, os.SEEK_END)
        self._path = path.resolve()
        self._options = options
        self._read_rows, self._decompressor = _reader(path)
        self._file_name = printable(path.name)
        self.name = printable(self._path)
        with closing(self._rows()) as rows:
            _check_names(rows, options)
        self._counted: Counted | None = None

    @property
    def bytes_read(self) -> int:
        return self._counted.bytes_read if self._counted else 0

    def size_bytes(self) -> int | None:
        return self._size_bytes

    def records(self) -> Iterator[Record | Rejection]:
        with closing(self._rows()) as rows:
            yield from _documents(rows, self._file_name, self._options)

    def _rows(self) -> Rows:
        with open_regular(self._path) as file:
            self._counted = Counted(file)
            stream = buffered(self._counted, self._decompressor and self._decompressor())
            yield from _until_broken(self._read_rows, stream, self._file_name, self._options, self._counted)


class StreamSource:
    """JSON lines from standard input; the records that were looked at are kept and given first."""

    name = "-"

    def __init__(self, stream: BinaryIO, options: SourceOptions) -> None:
        self._options = options
        self._counted = Counted(stream)
        self._rows = _until_broken(jsonl.rows, buffered(self._counted), self.name, options, self._counted)
        self._peeked = _check_names(self._rows, options)

    @property
    def bytes_read(self) -> int:
        return self._counted.bytes_read

    def size_bytes(self) -> int | None:
        """None: nobody knows how much will come."""
        return None

    def records(self) -> Iterator[Record | Rejection]:
        peeked, self._peeked = self._peeked, []
        return _documents(chain(peeked, self._rows), self.name, self._options)


def _reader(path: Path) -> tuple[RowReader, Callable[[], Decompressor] | None]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    decompressor = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if decompressor is not None:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in FORMATS:
        raise SourceUnsupported(f"{printable(path.name)} is not a kind of file that is read; these are: {READABLE}")
    return FORMATS[suffixes[-1]], decompressor


def _check_names(rows: Rows, options: SourceOptions) -> list[Row | Rejection]:
    """What was read until a record with the fields that were named. Raises FieldUnknown where none comes."""
    peeked: list[Row | Rejection] = []
    names: list[list[str]] = []
    for row in islice(rows, HEAD_ROWS):
        peeked.append(row)
        if isinstance(row, Row):
            names.append(list(row.fields))
            if misnamed(names, options) is None:
                return peeked
    if (error := misnamed(names, options)) is not None:
        raise error
    return peeked


def _until_broken(
    read_rows: RowReader, stream: BufferedReader, name: str, options: SourceOptions, counted: Counted
) -> Rows:
    """The stream's rows; where it breaks off, a fatal rejection that says after which."""
    last = ""
    try:
        if is_utf16(stream.peek(2)):
            raise SourceUnreadable(f"{name} is UTF-16; only UTF-8 is read")
        for row in read_rows(stream, name, options):
            last = row.where
            yield row
    except (BrokenStream, OSError) as error:
        reason = str(error) if isinstance(error, BrokenStream) else f"it cannot be read on: {error.strerror}"
        after = f"after {last}" if last else "at its beginning"
        yield Rejection(f"{name}@{counted.bytes_read}", f"{reason}, {after}; nothing more was read", fatal=True)


def _documents(rows: Iterable[Row | Rejection], name: str, options: SourceOptions) -> Iterator[Record | Rejection]:
    left = options.limit
    if left == 0:
        return
    for row in rows:
        item = document(row, name, options) if isinstance(row, Row) else row
        yield item
        if left is not None and isinstance(item, Record):
            left -= 1
            if left == 0:
                return
