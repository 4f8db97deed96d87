"""A batch file: its requests in the order of its lines, and what they have in common."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import BinaryIO

from docmill.storage.readers import jsonl, remote, streams
from docmill.storage.readers.errors import EncodingUnnamed
from docmill.storage.readers.files import Content, Opened, on_disk, until_broken
from docmill.storage.readers.records import Rejection, Rows, SourceOptions
from docmill.storage.readers.registry import COMPRESSIONS, SCHEMES, kind_of
from docmill.storage.readers.sources import path_of, scheme_of
from docmill.storage.readers.streams import Counted, buffered, is_folder
from docmill.worker.batch.requests import Call, Dialect, Refused, Request, request_of
from docmill.worker.errors import WorkerError

MOST_CALLS = 50
_BLOCK_BYTES = 2**20


class BadBatch(WorkerError):
    """The batch file as a whole cannot be carried out."""


@dataclass(frozen=True)
class BatchFile:
    """A file of requests, which is read again for each of its jobs.

    ``digest`` is of its bytes, and of the fields that are passed over: together they decide which requests there are.
    """

    content: Content
    compression: str
    digest: str
    dialect: Dialect

    @property
    def name(self) -> str:
        return self.content.name

    def requests(self, counted: Callable[[Counted], None] = lambda _: None) -> Iterator[Request | Refused]:
        """Yield the request on each line, or the reason against it. ``counted`` gets the stream of bytes."""
        with closing(self._rows(counted)) as rows:
            for row in rows:
                if isinstance(row, Rejection):
                    place, _, number = row.where.rpartition(":")
                    is_line = bool(place) and number.isdecimal()
                    yield Refused(None, int(number) if is_line else sys.maxsize, row.where, row.reason)
                else:
                    yield request_of(row, self.dialect)

    def _rows(self, counted: Callable[[Counted], None]) -> Rows:
        read_rows = streams.of_text(jsonl.rows)
        with self.content.open() as file:
            stream = Counted(file)
            counted(stream)
            decompress = COMPRESSIONS.get(self.compression)
            rows = read_rows(buffered(stream, decompress), self.content.place, SourceOptions())
            try:
                yield from until_broken(rows, lambda: f"{self.content.place}@{stream.bytes_read}")
            except EncodingUnnamed as error:
                raise BadBatch(f"{self.name} is no UTF-8, but probably {error.likely}; save it as UTF-8") from error


@dataclass(frozen=True)
class Contents:
    """The requests of a file by what they have in common, in the order of their first lines.

    ``calls`` has for each the place of its first request. ``n_requests`` counts those that can be carried out,
    ``n_refused`` the other lines.
    """

    calls: dict[Call, str]
    n_requests: int
    n_refused: int


@contextmanager
def open_batch(source: str, dialect: Dialect, stdin: BinaryIO | None = None) -> Iterator[BatchFile]:
    """Open the batch file of a path or a URL, or of standard input, which is copied to a temporary file.

    Raises SourceError.
    """
    with ExitStack() as stack:
        if source == "-":
            content = stack.enter_context(_spooled(sys.stdin.buffer if stdin is None else stdin))
        elif (scheme := scheme_of(source)) in SCHEMES:
            raise BadBatch(f"{scheme}:// is no file; name a file of requests")
        elif (path := path_of(source)) is None:
            content = remote.content(source)
        elif is_folder(path):
            raise BadBatch(f"{path} is a folder; name a file of requests")
        else:
            content = on_disk(path)
        yield _batch_file(content, dialect)


def _batch_file(content: Content, dialect: Dialect) -> BatchFile:
    _, decompress = kind_of(content.place)
    compression = next((end for end in COMPRESSIONS if content.place.lower().endswith(end)), "") if decompress else ""
    return BatchFile(content, compression, _digest(content, dialect.ignored), dialect)


def survey(file: BatchFile) -> Contents:
    """Return what the requests of a file have in common.

    Raises BadBatch for an id that stands in it twice, for a file without lines, and for one with too many different
    sets of parameters.
    """
    seen: dict[str, int] = {}
    calls: dict[Call, str] = {}
    n_requests = n_refused = 0
    for one in file.requests():
        keys = one.keys if isinstance(one, Request) else () if one.custom_id is None else (one.custom_id,)
        for key in dict.fromkeys((*keys, *(() if one.custom_id is None else (one.custom_id,)))):
            if (line := seen.setdefault(key, one.line)) != one.line:
                raise BadBatch(
                    f'{one.where}: the custom_id "{key[:100]}" stands on line {line:,} already; give each request an '
                    "id of its own"
                )
        if isinstance(one, Refused):
            n_refused += 1
            continue
        n_requests += 1
        calls.setdefault(one.call, one.where)
        if len(calls) > MOST_CALLS:
            raise BadBatch(
                f"{one.where}: the requests up to here have more than {MOST_CALLS} different sets of parameters, and "
                "each set makes a job. Give the requests the same parameters, or split the file"
            )
    if not n_requests and not n_refused:
        raise BadBatch(f"{file.content.place} has no requests")
    return Contents(calls, n_requests, n_refused)


def _digest(content: Content, ignored: Collection[str]) -> str:
    """Return the SHA-256 of a file's bytes and of names of fields, in hexadecimal digits."""
    found = hashlib.sha256()
    with content.open() as file:
        while block := file.read(_BLOCK_BYTES):
            found.update(block)
    for name in sorted(ignored):
        found.update(b"\0" + name.encode("utf-8", "surrogateescape"))
    return found.hexdigest()


@contextmanager
def _spooled(stream: BinaryIO) -> Iterator[Content]:
    """Give standard input as a file, which has no name and goes with the block."""
    with tempfile.TemporaryFile() as kept:
        shutil.copyfileobj(stream, kept)
        kept.flush()

        def opened() -> Opened:
            kept.seek(0)
            return FileIO(os.dup(kept.fileno()))

        yield Content("-", "-", kept.tell(), opened)
