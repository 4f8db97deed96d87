"""A batch file: its requests in the order of its lines, and what they have in common."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import Any, BinaryIO, Self

import numpy as np

from docmill.features.batch_server.bodies import BadRequest, parse_body
from docmill.features.batch_server.writer import EMBEDDINGS, REQUEST, URLS
from docmill.storage.core.normalize import normalize_json
from docmill.storage.readers import jsonl, remote, streams
from docmill.storage.readers.errors import EncodingUnnamed, finding_bugs
from docmill.storage.readers.files import Opened, Source, SourceFile, on_disk, until_broken
from docmill.storage.readers.records import MAX_ID_BYTES, Record, Rejection, Row, Rows, SourceOptions, document
from docmill.storage.readers.registry import FILES, SCHEMES, Archive, kind_of
from docmill.storage.readers.sources import path_of, scheme_of
from docmill.storage.readers.streams import Counted, Decompress, buffered, is_folder
from docmill.tasks.kinds.embed import EMBED
from docmill.tasks.kinds.generate import GENERATE
from docmill.tasks.kinds.options import KindOptions
from docmill.worker.errors import WorkerError

MOST_CALLS = 50
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class BatchFile:
    """A file of requests, which is read again for each of its jobs.

    ``digest`` is a hash of its bytes and of the ignored fields, since both decide which requests there are.
    """

    content: SourceFile
    decompress: Decompress | None
    digest: str
    body_settings: BodySettings

    @property
    def name(self) -> str:
        return self.content.name

    def requests(self, counted: Callable[[Counted], None] = lambda _: None) -> Iterator[BatchRequest | Rejection]:
        """Yield the request on each line, or the reason to refuse it. ``counted`` gets the stream of bytes."""
        with closing(self._rows(counted)) as rows:
            for row in rows:
                if isinstance(row, Rejection):
                    yield Rejection(row.where, row.reason)  # without its keys, which are not custom_ids
                else:
                    yield read_request(row, self.body_settings)

    def _rows(self, counted: Callable[[Counted], None]) -> Rows:
        read_rows = streams.of_text(jsonl.rows)
        with self.content.open() as file:
            stream = Counted(file)
            counted(stream)
            rows = read_rows(buffered(stream, self.decompress), self.content.place, SourceOptions())
            try:
                yield from until_broken(rows, lambda: f"{self.content.place}@{stream.bytes_read}")
            except EncodingUnnamed as error:
                reason = f"{self.content.place} is not UTF-8, but probably {error.likely}; save it as UTF-8"
                raise WorkerError(reason) from error


@contextmanager
def open_batch(source: str, body_settings: BodySettings) -> Iterator[BatchFile]:
    """Open the batch file of a path or a URL, or of standard input, which is copied to a temporary file.

    Raises SourceError.
    """
    with ExitStack() as stack:
        if source == "-":
            content = stack.enter_context(_spool(sys.stdin.buffer))
        elif (scheme := scheme_of(source)) in SCHEMES:
            raise WorkerError(f"{scheme}:// is not a file; name a file of requests")
        elif (path := path_of(source)) is None:
            content = remote.content(source)
        elif is_folder(path):
            raise WorkerError(f"{path} is a folder; name a file of requests")
        else:
            content = on_disk(path)
        suffix, decompress = kind_of(content.place)
        if isinstance(FILES.get(suffix), Archive):
            raise WorkerError(f"{content.place} is an archive; unpack it, and name a file of requests")
        yield BatchFile(content, decompress, _hash_file(content, body_settings.ignored), body_settings)


def survey(file: BatchFile) -> tuple[dict[Call, str], int, int]:
    """Return the calls of a file with the places of their first requests, and the numbers of requests and refusals.

    Raises WorkerError if two lines have the same id, if there is no line, or if there are too many calls.
    """
    hashes = array("q")  # of ids, of which a file may have millions
    calls: dict[Call, str] = {}
    n_requests = n_refused = 0
    for request in file.requests():
        hashes.extend(map(hash, _list_ids(request)))
        if isinstance(request, Rejection):
            n_refused += 1
            continue
        n_requests += 1
        calls.setdefault(request.call, request.where)
        if len(calls) > MOST_CALLS:
            raise WorkerError(
                f"{request.where}: the requests up to here have more than {MOST_CALLS} different sets of parameters, "
                "and each set makes a job. Give the requests the same parameters, or split the file"
            )
    if not n_requests and not n_refused:
        raise WorkerError(f"{file.content.place} has no requests")
    _require_different(file, hashes)
    return calls, n_requests, n_refused


def _list_ids(request: BatchRequest | Rejection) -> Collection[str]:
    """Return the custom_id of a line, and the ids of its documents, each once."""
    return request.keys if isinstance(request, Rejection) else dict.fromkeys((*request.keys, request.custom_id))


def _require_different(file: BatchFile, hashes: array[int]) -> None:
    """Raise WorkerError for an id on two lines. Read the file again only if a hash occurs twice."""
    ordered = np.sort(np.frombuffer(hashes, np.int64))
    repeated = {*ordered[1:][ordered[1:] == ordered[:-1]].tolist()}
    seen: dict[str, str] = {}
    for request in file.requests() if repeated else ():
        for key in _list_ids(request):
            if hash(key) in repeated and (first := seen.setdefault(key, request.where)) != request.where:
                raise WorkerError(
                    f'{request.where}: the custom_id "{key[:100]}" is on line {_line_of(first):,} already; '
                    "give each request its own id"
                )


def _line_of(where: str) -> int:
    return int(where.rpartition(":")[2])


def list_calls(file: BatchFile) -> list[Call]:
    """Return the calls of a surveyed file, in the order of their first lines."""
    requests = (request for request in file.requests() if isinstance(request, BatchRequest))
    return [*dict.fromkeys(request.call for request in requests)]


def _hash_file(content: SourceFile, ignored: Collection[str]) -> str:
    """Return the SHA-256 of a file's bytes and of names of fields, in hexadecimal digits."""
    digest = hashlib.sha256()
    with content.open() as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    for name in sorted(ignored):
        digest.update(b"\0" + name.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@contextmanager
def _spool(stream: BinaryIO) -> Iterator[SourceFile]:
    """Copy standard input to a temporary file without a name, which is removed at the end of the block."""
    with tempfile.TemporaryFile() as kept:
        shutil.copyfileobj(stream, kept)
        kept.flush()

        def opened() -> Opened:
            kept.seek(0)
            return FileIO(os.dup(kept.fileno()))

        yield SourceFile("-", "-", kept.tell(), opened)


_METHOD = "POST"
_MOST_ID_BYTES = MAX_ID_BYTES - 20  # the number of an input comes after it
_FIELDS = frozenset({"custom_id", "method", "url", "body"})


@dataclass(frozen=True)
class Call:
    """The url, the model's name in the file, and the options of requests. Each call makes a job."""

    url: str
    model: str | None
    options: KindOptions

    @property
    def task(self) -> str:
        return EMBED.name if self.url == EMBEDDINGS else GENERATE.name


@dataclass(frozen=True)
class BatchRequest:
    """A request on a line of the file. Each of its texts is a document. ``form`` is the form of its embeddings."""

    custom_id: str
    where: str
    call: Call
    texts: tuple[str, ...]
    form: Mapping[str, Any]
    flags: tuple[str, ...]

    @property
    def line(self) -> int:
        return _line_of(self.where)

    @property
    def keys(self) -> tuple[str, ...]:
        """The ids of its documents: the custom_id, followed by a number if there are several texts."""
        n = len(self.texts)
        return (self.custom_id,) if n == 1 else tuple(f"{self.custom_id}#{place}" for place in range(n))

    def rows(self, model: str) -> Iterator[Row]:
        """Yield its documents as rows of a source, with the request in their metadata.

        If the request names no model, the answer names ``model``.
        """
        common = {"custom_id": self.custom_id, "url": self.call.url, "model": self.call.model or model}
        n = len(self.texts)
        for place, (key, text) in enumerate(zip(self.keys, self.texts, strict=True)):
            part = {"index": place, "of": n} if n > 1 else {}
            request = {**common, "line": self.line, **part, **self.form}
            where = self.where if n == 1 else f"{self.where}#{place}"
            yield Row({"id": key, "text": text, REQUEST: request}, where, self.flags, clean=False)


@dataclass(frozen=True)
class BodySettings:
    """Settings for reading bodies: the precision of the jobs, and the fields to ignore.

    With a ``url``, all requests must have it. With ``models``, requests must name one of them. ``seed`` is the seed
    of samples if a request has none.
    """

    dtype: str
    ignored: frozenset[str] = frozenset()
    url: str | None = None
    models: tuple[str, ...] | None = None
    seed: int | None = None


def read_request(row: Row, body_settings: BodySettings) -> BatchRequest | Rejection:
    """Return the request on a line, or its rejection, whose key is the custom_id if the line has one."""
    fields, replaced = (row.fields, ()) if row.clean else normalize_json(row.fields)
    custom_id = fields.get("custom_id")
    try:
        url, body = _check_line(fields, body_settings)
        options, texts, form = parse_body(url, body, body_settings.dtype, body_settings.ignored, body_settings.seed)
    except BadRequest as error:
        keys = (custom_id,) if isinstance(custom_id, str) and custom_id else ()
        return Rejection(row.where, str(error), keys=keys)
    call = Call(url, body.get("model"), options)
    return BatchRequest(fields["custom_id"], row.where, call, texts, form, (*row.flags, *replaced))


def _check_line(fields: Mapping[str, Any], body_settings: BodySettings) -> tuple[str, Mapping[str, Any]]:
    """Return the url and the body of a line. Raises BadRequest."""
    custom_id, url, body = (fields.get(name) for name in ("custom_id", "url", "body"))
    if not isinstance(custom_id, str) or not custom_id:
        wrong = "is empty" if custom_id == "" else "must be a text" if "custom_id" in fields else "is missing"
        raise BadRequest(f'"custom_id" {wrong}')
    if len(custom_id.encode()) > _MOST_ID_BYTES:
        raise BadRequest(f'"custom_id" has {len(custom_id.encode()):,} bytes; at most {_MOST_ID_BYTES:,} are stored')
    if fields.get("method") != _METHOD:
        raise BadRequest(f'"method" must be {_METHOD}' if "method" in fields else '"method" is missing')
    if not isinstance(url, str) or url not in URLS:
        raise BadRequest(f'"url" must be {", ".join(URLS[:-1])} or {URLS[-1]}')
    if body_settings.url not in {None, url}:
        raise BadRequest(f'"url" must be {body_settings.url}, the endpoint of the batch')
    if not isinstance(body, dict):
        raise BadRequest('"body" must be an object' if "body" in fields else '"body" is missing')
    if not isinstance(body.get("model"), str | None):
        raise BadRequest('"model" must be a text')
    if body_settings.models is not None and body.get("model") not in body_settings.models:
        raise BadRequest(f'"model" must be one that is served here: {", ".join(body_settings.models)}')
    if unknown := sorted(fields.keys() - _FIELDS - body_settings.ignored):
        raise BadRequest(f'"{unknown[0][:60]}" is unknown; a line has "custom_id", "method", "url" and "body"')
    return url, body


_OPTIONS = SourceOptions()


class CallSource(Source):
    """The documents of the requests with one call. If a request names no model, answers name ``model``.

    With ``refused``, it also has the refused lines as rejected records, and the requests of ``unfit`` calls with the
    reasons.
    """

    takes_encoding = False

    def __init__(self, file: BatchFile, call: Call, model: str, *, refused: bool, unfit: Mapping[Call, str]) -> None:
        self.name = file.name
        self._file = file
        self._call = call
        self._model = model
        self._refused = refused
        self._unfit = unfit
        self._counted: Counted | None = None

    @property
    def bytes_read(self) -> int:
        return self._counted.bytes_read if self._counted else 0

    def size_bytes(self) -> int | None:
        return self._file.content.size_bytes

    def opened(self, _options: SourceOptions) -> Self:
        """Return this source unchanged: each line of the file says how it is read."""
        return self

    def records(self) -> Iterator[Record | Rejection]:
        """Yield the documents, and rejections, in the order of the file's lines."""
        with finding_bugs(self._file.content.place):
            for request in self._file.requests(self._count):
                if not isinstance(request, Rejection) and request.call == self._call:
                    for row in request.rows(self._model):
                        yield document(row, self._file.content.place, _OPTIONS)
                elif self._refused and (rejected := find_refusal(request, self._unfit)) is not None:
                    yield rejected

    def _count(self, stream: Counted) -> None:
        self._counted = stream


def find_refusal(request: BatchRequest | Rejection, unfit: Mapping[Call, str]) -> Rejection | None:
    """Return the rejection of a line that is not carried out; None for other lines."""
    if isinstance(request, Rejection):
        return request
    reason = unfit.get(request.call)
    return None if reason is None else Rejection(request.where, reason, keys=(request.custom_id,))
