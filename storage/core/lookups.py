"""Get or create rows by their natural keys, look rows up, and read many in pages."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from shlex import quote
from typing import Any, TypeAlias, TypeVarTuple

import orjson
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Row,
    ScalarSelect,
    Select,
    and_,
    delete,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from docmill.storage.core.database import Database
from docmill.storage.core.schema import (
    AnyRow,
    Base,
    BigId,
    Content,
    Corpus,
    Document,
    OutcomeRow,
    Runtime,
    SpecRow,
    VectorLength,
    db_now,
)
from docmill.storage.core.specs import Known, Spec
from docmill.storage.core.transaction import Columns, Transaction
from docmill.storage.errors import NotFound

Ts = TypeVarTuple("Ts")
Key: TypeAlias = ColumnElement[int] | ColumnElement[str]
SPEC = (SpecRow.kind, SpecRow.model, SpecRow.revision, SpecRow.quality, SpecRow.params)


def corpus_id(transaction: Transaction, name: str) -> int:
    """Return the id of the corpus with this name. Make the corpus if there is none."""
    return _find_or_make(transaction, Corpus, "name", {"name": name, "created_at": db_now()})


def spec_id(transaction: Transaction, spec: Spec) -> int:
    """Return the id of a spec. Store the spec if it is new."""
    return _find_or_make(transaction, SpecRow, "sha256", {"sha256": spec.sha256, **spec.fields})


def runtime_id(transaction: Transaction, runtime: Mapping[str, Any]) -> int:
    """Return the id of a runtime, {"device", "precision", "backend", "versions"}. Store it if it is new."""
    return _find_or_make(transaction, Runtime, "sha256", {"sha256": runtime_sha256(runtime), **runtime})


def runtime_sha256(runtime: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(orjson.dumps(dict(runtime), option=orjson.OPT_SORT_KEYS)).digest()


def vector_length(transaction: Transaction, spec_id: int) -> int | None:
    """Return the length of a spec's vectors; None before the first vector."""
    return transaction.scalar(select(VectorLength.numbers).where(VectorLength.spec_id == spec_id))


def make_vector_length(transaction: Transaction, spec_id: int, numbers: int) -> int:
    """Return the length of a spec's vectors. Store `numbers` as the length before the first vector."""
    length = vector_length(transaction, spec_id)
    if length is None:
        made = transaction.insert(VectorLength).values(spec_id=spec_id, numbers=numbers)
        transaction.execute(made.on_conflict_do_nothing())
        length = vector_length(transaction, spec_id)
    assert length is not None
    return length


def spec_of(row: AnyRow) -> Spec:
    """Return the spec in a row with the columns `SPEC`."""
    return Spec(kind=row.kind, model=row.model, revision=row.revision, quality=row.quality, params=row.params or {})


def known_outcomes(transaction: Transaction, spec_id: int, content_ids: Sequence[int]) -> dict[int, Known]:
    """Return the outcomes that contents have under a spec, by content."""
    query = select(OutcomeRow.content_id, OutcomeRow.status, OutcomeRow.flags).where(OutcomeRow.spec_id == spec_id)
    rows = transaction.probe(query, OutcomeRow.content_id, content_ids)
    return {row.content_id: Known(row.status, row.flags) for row in rows}


def n_chars(transaction: Transaction, content_ids: Sequence[int]) -> dict[int, int]:
    """Return the length of each content in characters."""
    rows = transaction.probe(select(Content.id, Content.n_chars), Content.id, content_ids)
    return {row.id: row.n_chars for row in rows}


def read_texts(transaction: Transaction, content_ids: Collection[int]) -> dict[int, str]:
    """Return texts by content id. Contents that are not stored are left out."""
    rows = transaction.probe(select(Content.id, Content.text), Content.id, content_ids)
    return {row.id: row.text for row in rows}


def read_keys(transaction: Transaction, document_ids: Collection[int]) -> dict[int, str]:
    """Return the ids by which users know documents, by the rows' ids. Removed documents are left out."""
    rows = transaction.probe(select(Document.id, Document.key), Document.id, document_ids)
    return {row.id: row.key for row in rows}


def insert_row(transaction: Transaction, table: type[Base], **values: Any) -> int:
    """Insert a row. Return its id."""
    values = transaction.own_id(table) | values
    key = transaction.execute(table.__table__.insert().values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def store_contents(transaction: Transaction, texts: Mapping[bytes, str]) -> tuple[dict[bytes, int], dict[int, int]]:
    """Get or create contents: unique texts by the hash of their UTF-8 bytes.

    Return the id of every text by its hash, and {id: characters} of the texts that were not stored before.
    """
    transaction.keep_contents()
    known = transaction.content_ids(list(texts))
    new = [sha256 for sha256 in texts if sha256 not in known] if known else list(texts)
    if not new:
        return known, {}
    ids = dict(zip(new, transaction.next_ids(Content, len(new)), strict=True))
    new = transaction.in_lock_order(new)
    columns: Columns = {
        "id": [ids[sha256] for sha256 in new],
        "sha256": new,
        "text": [texts[sha256] for sha256 in new],
        "n_chars": [len(texts[sha256]) for sha256 in new],
    }
    if transaction.try_load(Content, columns):
        return known | ids, dict(zip(columns["id"], columns["n_chars"], strict=True))
    made = transaction.insert_missing(Content, columns, Content.id, Content.sha256, Content.n_chars)
    known |= {row.sha256: row.id for row in made}
    # Stored by another writer since we looked.
    known |= transaction.content_ids([sha256 for sha256 in new if sha256 not in known])
    return known, {row.id: row.n_chars for row in made}


def find_corpus(database: Database, name: str) -> int:
    """Return the id of the corpus with this name. Raises NotFound."""
    with database.read() as transaction:
        corpus_id = transaction.scalar(select(Corpus.id).where(Corpus.name == name))
        if corpus_id is None:
            raise missing_corpus(transaction, [name])
    return corpus_id


def find_first_existing(database: Database, names: Sequence[str]) -> str:
    """Return the first of these names that a corpus has. Raises NotFound if no corpus has any of them."""
    with database.read() as transaction:
        existing = {*transaction.scalars(select(Corpus.name).where(Corpus.name.in_(names)))}
        if not existing:
            raise missing_corpus(transaction, names)
    return next(name for name in names if name in existing)


def missing_corpus(
    transaction: Transaction, names: Sequence[str], advice: str = "`docmill corpus list` names them"
) -> NotFound:
    """Return the error for a corpus of several possible names that does not exist.

    It gives the name of a corpus of the same source that `--limit` made, or else the advice.
    """
    beginnings = (Corpus.name.startswith(f"{name} (first ", autoescape=True) for name in names)
    sample = transaction.scalar(select(Corpus.name).where(or_(*beginnings)).order_by(Corpus.id.desc()).limit(1))
    if sample is not None:
        advice = f"the corpus that --limit made of it is named {quote(sample)}"
    return NotFound(f"there is no corpus {names[0]}; {advice}")


def is_current_document(documents: FromClause = Document.__table__) -> ColumnElement[bool]:
    """Return the condition for a document to be in its corpus now: the latest version of its key, and not gone.

    `documents` has the columns of `Document`, perhaps under another name.
    """
    return and_(documents.c.superseded_by.is_(None), ~documents.c.gone)


def unseen(value: int) -> ScalarSelect[int]:
    """Return a value that PostgreSQL does not see while it plans, so that it plans for an average one.

    It takes a corpus or spec that is newer than its statistics for one row. If it looks up many texts, it might find
    each by the index of the corpus, and read the whole corpus for it.
    """
    return select(literal(value, BigId)).scalar_subquery()


def pages(
    database: Database, query: Select[*Ts], by: Key, size: int, after: int | str = 0
) -> Iterator[Sequence[Row[*Ts]]]:
    """Yield the rows of a query page by page, in the order of a unique column, beginning behind the value `after`.

    No transaction is open while the caller works. The last page has fewer than `size` rows, perhaps none.
    """
    query = query.order_by(by).limit(size)
    while True:
        page = database.rows(query.where(by > after))
        yield page
        if len(page) < size:
            return
        after = page[-1]._mapping[by]


def count_rows(transaction: Transaction, table: FromClause | type[Base], condition: ColumnElement[bool]) -> int:
    """Return the number of rows of a table that meet a condition."""
    return transaction.scalar(select(func.count()).select_from(table).where(condition)) or 0


def delete_page(transaction: Transaction, table: type[Base], condition: ColumnElement[bool], size: int) -> int:
    """Delete up to `size` of the rows that meet a condition. Return their number; 0 when none is left."""
    key = [*table.__table__.primary_key]
    page = select(*key).where(condition).limit(size)
    wanted = key[0] if len(key) == 1 else tuple_(*key)
    return transaction.execute(delete(table).where(wanted.in_(page))).rowcount


def _find_or_make(transaction: Transaction, table: type[Base], natural_key: str, row: Mapping[str, Any]) -> int:
    columns = table.__table__.c
    query = select(columns.id).where(columns[natural_key] == row[natural_key])
    row_id = transaction.scalar(query)
    if row_id is None:
        made = transaction.insert(table).values(**transaction.own_id(table), **row)
        transaction.execute(made.on_conflict_do_nothing(index_elements=[natural_key]))
        row_id = transaction.scalar(query)
    assert isinstance(row_id, int)
    return row_id
