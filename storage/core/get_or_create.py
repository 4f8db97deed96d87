"""Get or create rows by their natural keys: specs, runtimes, corpora, the outcomes of contents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Row, select

from storage.core.clock import db_now
from storage.core.database import Database
from storage.core.outcomes import Known
from storage.core.schema import Base, Content, Corpus, OutcomeRow, Runtime, SpecRow, VectorLength
from storage.core.specs import Spec
from storage.core.transaction import Transaction


def corpus_id(transaction: Transaction, name: str) -> int:
    """The corpus of that name, made if there is none."""
    return _find_or_make(transaction, Corpus, "name", {"name": name, "created_at": db_now()})


def spec_id(transaction: Transaction, spec: Spec) -> int:
    """The row of a spec, made if there is none."""
    row = {
        "sha256": spec.sha256,
        "kind": spec.kind,
        "model": spec.model,
        "revision": spec.revision,
        "quality": spec.quality,
        "params": dict(spec.params),
    }
    return _find_or_make(transaction, SpecRow, "sha256", row)


def runtime_id(database: Database, runtime: Mapping[str, Any]) -> int:
    """The row of a runtime: {"device", "precision", "backend", "versions"}."""
    digest = hashlib.sha256(orjson.dumps(dict(runtime), option=orjson.OPT_SORT_KEYS)).digest()
    return database.write(
        lambda transaction: _find_or_make(transaction, Runtime, "sha256", {"sha256": digest, **runtime})
    )


def vector_length(transaction: Transaction, spec_id: int) -> int | None:
    """Return the numbers in each vector of a spec; None before its first one."""
    return transaction.scalar(select(VectorLength.numbers).where(VectorLength.spec_id == spec_id))


def make_vector_length(transaction: Transaction, spec_id: int, numbers: int) -> int:
    """Return the numbers in each vector of a spec, kept now if there was none."""
    length = vector_length(transaction, spec_id)
    if length is None:
        made = transaction.insert(VectorLength).values(spec_id=spec_id, numbers=numbers)
        transaction.execute(made.on_conflict_do_nothing())
        length = vector_length(transaction, spec_id)
    assert length is not None
    return length


SPEC = (SpecRow.kind, SpecRow.model, SpecRow.revision, SpecRow.quality, SpecRow.params)


def spec_of(row: Row[*tuple[Any, ...]]) -> Spec:
    """A spec from a row with the columns of `SpecRow`."""
    return Spec(kind=row.kind, model=row.model, revision=row.revision, quality=row.quality, params=row.params or {})


def known_outcomes(transaction: Transaction, spec_id: int, content_ids: Sequence[int]) -> dict[int, Known]:
    """Return the status, by content, of those that have an outcome under the spec."""
    query = select(OutcomeRow.content_id, OutcomeRow.status, OutcomeRow.flags).where(OutcomeRow.spec_id == spec_id)
    rows = transaction.probe(query, OutcomeRow.content_id, content_ids)
    return {row.content_id: Known.of(row.status, row.flags) for row in rows}


def n_chars(transaction: Transaction, content_ids: Sequence[int]) -> dict[int, int]:
    """The length of each content in characters."""
    if not content_ids:
        return {}
    rows = transaction.execute(select(Content.id, Content.n_chars).where(Content.id.in_(content_ids)))
    return {row.id: row.n_chars for row in rows}


def insert(transaction: Transaction, table: type[Base], **values: Any) -> int:
    """Insert one row; its id."""
    values = transaction.own_id(table) | values
    key = transaction.execute(table.__table__.insert().values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _find_or_make(transaction: Transaction, table: type[Base], natural_key: str, row: Mapping[str, Any]) -> int:
    columns = table.__table__.c
    query = select(columns.id).where(columns[natural_key] == row[natural_key])
    found = transaction.scalar(query)
    if found is None:
        made = transaction.insert(table).values(**transaction.own_id(table), **row)
        transaction.execute(made.on_conflict_do_nothing(index_elements=[natural_key]))
        found = transaction.scalar(query)
    assert isinstance(found, int)
    return found
