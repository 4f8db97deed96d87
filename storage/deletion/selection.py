"""Documents chosen for removal: by their metadata, or because they vanished from their source."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import find_corpus, pages
from docmill.storage.core.normalize import normalize
from docmill.storage.core.schema import Corpus, Document
from docmill.storage.errors import StorageError
from docmill.storage.templates import written

PAGE = 5_000
_PREFIX = "meta."


class ConditionInvalid(StorageError):
    """A condition is written meta.FIELD=VALUE."""


@dataclass(frozen=True)
class Condition:
    """A field of the metadata has this value. Numbers and lists are compared in the form that a prompt would have."""

    field: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Return the condition in `meta.FIELD=VALUE`. Raises ConditionInvalid."""
        name, equals, value = text.partition("=")
        field = name.removeprefix(_PREFIX)
        if not equals or field == name or not field:
            raise ConditionInvalid(f"{text!r} is not meta.FIELD=VALUE, such as meta.customer=4711")
        return cls(normalize(field)[0], normalize(value)[0])

    def __str__(self) -> str:
        return f"{_PREFIX}{self.field}={self.value}"

    def holds(self, meta: Mapping[str, Any]) -> bool:
        """Return True if the metadata have the field with this value. Null is no value."""
        found = meta.get(self.field)
        return found is not None and written(found) == self.value


def select_keys(
    database: Database, name: str, conditions: Collection[Condition] = (), *, only_vanished: bool = False
) -> list[str]:
    """Return the ids of a corpus's documents with a version that meets all conditions, in order.

    With `only_vanished` only documents that vanished from their source. Raises NoSuchCorpus.
    """
    corpus_id = find_corpus(database, name)
    chosen = set[str]()
    vanished = set[str]()
    for row in _versions(database, corpus_id, only_gone=only_vanished and not conditions):
        if row.gone and row.superseded_by is None:
            vanished.add(row.key)
        if all(condition.holds(row.meta) for condition in conditions):
            chosen.add(row.key)
    return sorted(chosen & vanished if only_vanished else chosen)


def _versions(database: Database, corpus_id: int, *, only_gone: bool) -> Iterator[Any]:
    columns = (Document.id, Document.key, Document.meta, Document.gone, Document.superseded_by)
    query = select(*columns).where(Document.corpus_id == corpus_id)
    if only_gone:
        query = query.where(Document.gone, Document.superseded_by.is_(None))
    return chain.from_iterable(pages(database, query, Document.id, PAGE))


def count_vanished(database: Database) -> dict[str, int]:
    """Return the number of vanished documents that the store keeps, by corpus; corpora without any are left out."""
    query = (
        select(Corpus.name, func.count().label("n"))
        .join(Document, Document.corpus_id == Corpus.id)
        .where(Document.gone, Document.superseded_by.is_(None))
        .group_by(Corpus.name)
        .order_by(Corpus.name)
    )
    with database.read() as transaction:
        return {row.name: row.n for row in transaction.execute(query)}
