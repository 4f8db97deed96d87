"""Lines of a batch file: a request each, or the reason why it cannot be carried out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from docmill.storage.core.normalize import normalize_json
from docmill.storage.readers.records import MAX_ID_BYTES, Rejection, Row
from docmill.storage.writers.openai_batch import REQUEST, URLS
from docmill.tasks.kinds.options import KindOptions
from docmill.worker.batch.bodies import BadRequest, Body, parsed

_METHOD = "POST"
_MOST_ID_BYTES = MAX_ID_BYTES - 20  # the number of an input comes after it
_FIELDS = frozenset({"custom_id", "method", "url", "body"})


@dataclass(frozen=True)
class Call:
    """A task, a model as the file names it, and options: the requests that have them in common make one job."""

    url: str
    model: str | None
    task: str
    options: KindOptions


@dataclass(frozen=True)
class Request:
    """A request on a line of the file. Each of its texts is a document."""

    custom_id: str
    line: int
    where: str
    call: Call
    body: Body
    flags: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The ids of its documents: the custom_id, with a number after it for each of several texts."""
        n = len(self.body.texts)
        return (self.custom_id,) if n == 1 else tuple(f"{self.custom_id}#{place}" for place in range(n))

    def rows(self, model: str) -> Iterator[Row]:
        """Yield its documents as rows of a source, each with the request in its metadata.

        ``model`` is the model in the answer if the request names none.
        """
        told = {"custom_id": self.custom_id, "url": self.call.url, "model": self.call.model or model}
        n = len(self.body.texts)
        for place, (key, text) in enumerate(zip(self.keys, self.body.texts, strict=True)):
            part = {"index": place, "of": n} if n > 1 else {}
            request = {**told, "line": self.line, **part, **self.body.form}
            where = self.where if n == 1 else f"{self.where}#{place}"
            yield Row({"id": key, "text": text, REQUEST: request}, self.line, where, self.flags, clean=False)


@dataclass(frozen=True)
class Refused:
    """A line whose request is not carried out, with the reason. The custom_id is None if the line has none."""

    custom_id: str | None
    line: int
    where: str
    reason: str

    @property
    def rejection(self) -> Rejection:
        return Rejection(self.where, self.reason, keys=() if self.custom_id is None else (self.custom_id,))


@dataclass(frozen=True)
class Dialect:
    """Settings for reading bodies: the precision of the jobs, and the fields that are passed over."""

    dtype: str
    ignored: frozenset[str] = frozenset()


def request_of(row: Row, dialect: Dialect) -> Request | Refused:
    """Return the request on a line, or the reason against it."""
    fields, replaced = (row.fields, ()) if row.clean else normalize_json(row.fields)
    custom_id = fields.get("custom_id")
    line = int(row.where.rpartition(":")[2])
    named = custom_id if isinstance(custom_id, str) and custom_id else None
    try:
        url, body = _checked(fields, dialect.ignored)
        found = parsed(url, body, dialect.dtype, dialect.ignored)
    except BadRequest as error:
        return Refused(named, line, row.where, str(error))
    assert named is not None
    call = Call(url, body.get("model"), found.task, found.options)
    return Request(named, line, row.where, call, found, (*row.flags, *replaced))


def _checked(fields: Mapping[str, Any], ignored: frozenset[str]) -> tuple[str, Mapping[str, Any]]:
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
    if not isinstance(body, dict):
        raise BadRequest('"body" must be an object' if "body" in fields else '"body" is missing')
    if not isinstance(body.get("model"), str | None):
        raise BadRequest('"model" must be a text')
    if unknown := sorted(fields.keys() - _FIELDS - ignored):
        raise BadRequest(f'"{unknown[0][:60]}" has no place beside "custom_id", "method", "url" and "body"')
    return url, body
