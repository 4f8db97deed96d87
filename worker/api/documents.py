"""The documents of a call, and the records that were read from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, TypeAlias

import orjson

from docmill.storage.readers import Record, Rejection, Source, SourceMissing, SourceOptions, open_source
from docmill.storage.readers.memory import NAME, MemorySource, named_by_digest


class ArrowTable(Protocol):
    """A table with Arrow's interface: of pandas, polars, pyarrow, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


During: TypeAlias = Callable[[], AbstractContextManager[None]]
Documents: TypeAlias = str | os.PathLike[str] | Iterable[str | None] | Iterable[Mapping[str, Any]] | ArrowTable


@dataclass(frozen=True, slots=True)
class Read:
    """A record that was read; a rejected one has a `reason`. Records with the same key and digest share a result."""

    where: str
    key: str | None
    digest: bytes = b""
    reason: str | None = None


class Reading:
    """Documents that are read once, inside `during`. `read` has the records so far, in order."""

    def __init__(self, documents: Documents, during: During = nullcontext) -> None:
        self._documents = documents
        self._during = during
        self.name = os.fspath(documents) if isinstance(documents, str | os.PathLike) else NAME
        self.read: list[Read] = []

    @property
    def digested(self) -> str:
        """The name, with a digest of documents that can be read twice, so that others have another name."""
        return named_by_digest(self._documents) if self.name == NAME else self.name

    def open(self, options: SourceOptions, *, has_corpus: bool) -> Source:
        """Open the source. Raises SourceError."""
        if isinstance(self._documents, str | os.PathLike):
            try:
                return _Noted(open_source(self.name, options), self.read, self._during)
            except SourceMissing as error:
                raise SourceMissing(f"{error}; texts go into a list, also a single one") from error
        return _Noted(MemorySource(self._documents, options, has_corpus=has_corpus), self.read, self._during)


class _Noted:
    """A source whose records are noted as they are read."""

    def __init__(self, source: Source, read: list[Read], during: During) -> None:
        self.name = source.name
        self._during = during
        self._source = source
        self._read = read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)  # a source of files also has `ignored`

    @property
    def bytes_read(self) -> int:
        return self._source.bytes_read

    def size_bytes(self) -> int | None:
        """Return the size of the source in bytes; None if it is unknown."""
        return self._source.size_bytes()

    def records(self) -> Iterator[Record | Rejection]:
        with self._during():
            for one in self._source.records():
                self._read.append(_noted(one))
                yield one


def _noted(one: Record | Rejection) -> Read:
    if isinstance(one, Rejection):
        key = one.keys[0] if len(one.keys) == 1 else None
        return Read(one.where, key, reason=one.reason)
    return Read(one.where, one.key, sha256(one.text.encode() + orjson.dumps(one.meta)).digest())
