"""Sources that are no files: texts that the store has, and nothing at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import is_current_document
from docmill.storage.core.schema import Content, Document
from docmill.storage.readers.records import Record, Rejection
from docmill.storage.steps import lineage
from docmill.storage.steps.steps import OpenStep

PAGE = 1_000


@dataclass
class NoSource:
    """A source without records: a job over it computes the documents that its corpus has."""

    name: str
    bytes_read = 0

    def size_bytes(self) -> int | None:
        """Return 0."""
        return 0

    def records(self) -> Iterator[Record | Rejection]:
        """Yield nothing."""
        yield from ()


@dataclass
class StoredTexts:
    """The texts that the last step of a path reads, of the current documents of a corpus that have one."""

    name: str
    database: Database
    corpus_id: int
    way: Sequence[OpenStep]
    bytes_read = 0

    def size_bytes(self) -> int | None:
        """Return None: the size is unknown."""
        return None

    def records(self) -> Iterator[Record | Rejection]:
        """Yield a record for each document, without the prompt around its text."""
        columns = (Document.id, Document.key, Document.content_id, Document.meta)
        query = select(*columns).where(Document.corpus_id == self.corpus_id, is_current_document())
        last, full = 0, True
        while full:
            with self.database.read() as transaction:
                page = transaction.execute(query.where(Document.id > last).order_by(Document.id).limit(PAGE)).all()
                inputs = lineage.given(transaction, self.way, {row.id: row.content_id for row in page})
                of_contents = select(Content.id, Content.text).where(Content.id.in_({*inputs.values()}))
                texts = {row.id: row.text for row in transaction.execute(of_contents)}
            for row in page:
                if row.id in inputs:
                    yield Record(row.key, texts[inputs[row.id]], row.meta, (), row.key)
            full = len(page) == PAGE
            last = page[-1].id if page else last
