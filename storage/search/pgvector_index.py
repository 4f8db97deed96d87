"""The index of one spec's vectors, by pgvector: a side table that an admin makes, updates and drops.

A row of `vectors_SPEC` is a vector of an outcome, scaled to length 1 and in half precision, since it only selects
candidates (`ann`). A foreign key deletes it with the outcome. Workers do not use the table: a search finds what it
lacks, and `add` brings that in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Select, and_, column, select, table

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, spec_of, vector_length
from docmill.storage.core.schema import AnyRow, OutcomeRow, SpecRow
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import DatabaseBusy, NothingEmbedded, RightMissing, StorageError
from docmill.storage.search.knn import Matrix

PAGE = 512  # contents added in one transaction; each takes 1 to 2 ms once the index exists
PAGE_NUMBERS = 2**20  # numbers in the vectors of a page, about
MOST_NUMBERS = 4_000  # HNSW's limit for a vector in half precision
OLDEST = (0, 8)  # the first pgvector with iterative scans
CONSTRUCTION = "m = 16, ef_construction = 128"
# Memory for a vector while the graph is built, and the most that is used.
BYTES_BESIDE, MOST_MEMORY_KB = 700, 2**20
_LOCK = 0x766563  # "vec"


@dataclass(frozen=True)
class VectorIndex:
    """An index of vectors. `lacking` contents were embedded since the last update; `ready` is False until built."""

    spec_id: int
    spec: Spec
    vectors: int
    lacking: int
    size_bytes: int
    ready: bool


def name_of(spec_id: int) -> str:
    """Return the name of a spec's side table."""
    return f"vectors_{spec_id:d}"


def add(database: Database, spec_id: int, advanced: Callable[[int], None] = lambda _added: None) -> int:
    """Make or update the index of a spec. Return the number of contents that it lacked.

    The next call continues an interrupted call. `advanced` is told the number added so far. Raises StorageError, and
    DatabaseBusy if another process makes the index.
    """
    _require_pgvector(database)
    with alone(database, spec_id):
        dim = _read_dim(database, spec_id)
        database.write(lambda writing: _make(writing, spec_id, dim))
        n_added, last = 0, 0
        while (page := _add_page(database, spec_id, dim, last)) is not None:
            added, last = page
            n_added += added
            advanced(n_added)
        _build(database, spec_id, dim)
    return n_added


def drop(database: Database, spec_id: int) -> bool:
    """Drop the index of a spec. Return False if there is none."""

    def work(transaction: Transaction) -> bool:
        if not transaction.has_table(name_of(spec_id)):
            return False
        _do_not_wait_long(transaction)
        transaction.exec_driver_sql(f"DROP TABLE {name_of(spec_id)}")
        return True

    return database.write(work)


def list_indexes(database: Database) -> list[VectorIndex]:
    """Return all indexes of this store."""
    with database.read() as transaction:
        transaction.prefer_indexes()
        ids = list_spec_ids(transaction)
        specs = transaction.execute(select(SpecRow.id, *SPEC).where(SpecRow.id.in_(ids)).order_by(SpecRow.id))
        return [_describe(transaction, row) for row in specs.all()]


def list_spec_ids(transaction: Transaction) -> list[int]:
    """Return the specs that have a side table."""
    if transaction.server is None:
        return []
    names = transaction.exec_driver_sql(
        "SELECT relname FROM pg_class "
        "WHERE relkind = 'r' AND relname ~ '^vectors_[0-9]+$' AND pg_table_is_visible(oid)"
    )
    return sorted(int(name.removeprefix("vectors_")) for name in names.scalars())


def size(transaction: Transaction, spec_id: int) -> int | None:
    """Return the approximate number of vectors in a spec's index; None if there is none, or it is not built."""
    rows = transaction.exec_driver_sql(
        "SELECT reltuples FROM pg_class JOIN pg_index ON indrelid = pg_class.oid "
        "WHERE indexrelid = to_regclass(%s) AND indisvalid",
        (_index(spec_id),),
    )
    n_tuples = rows.scalar()
    return None if n_tuples is None else max(0, int(n_tuples))


def side_table(spec_id: int) -> Any:
    """Return the side table of a spec, to select from."""
    return table(name_of(spec_id), column("content_id"), column("part"), column("embedding"))


def without(spec_id: int) -> Select[*tuple[Any, ...]]:
    """Select the contents with an outcome under a spec that its side table lacks."""
    there = side_table(spec_id)
    has = select(there.c.content_id).where(there.c.content_id == OutcomeRow.content_id).correlate(OutcomeRow).exists()
    return select(OutcomeRow.content_id).where(OutcomeRow.spec_id == spec_id, ~has)


def find_lacking(transaction: Transaction, spec_id: int, limit: int | None = None) -> Sequence[int]:
    """Return the contents with a vector under a spec that its side table lacks, at most `limit` of them.

    Two indexes alone tell which contents it lacks, so that no vectors are read.
    """
    transaction.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
    not_there = without(spec_id).cte("not_there").prefix_with("MATERIALIZED", dialect="postgresql")
    its_row = and_(OutcomeRow.spec_id == spec_id, OutcomeRow.content_id == not_there.c.content_id)
    row = select(OutcomeRow.status).where(its_row).offset(0).lateral()
    query = select(not_there.c.content_id).join(row, row.c.status == "done").limit(limit)
    return transaction.scalars(query).all()


def rows_of(vectors: Sequence[tuple[int, Matrix]]) -> bytes:
    """Return the side table's rows in COPY's binary form, from (content, vectors of shape (parts, dim)).

    A content with a vector that cannot be brought to length 1 is left out, since it has no cosine.
    """
    ids, parts, unit = list[int](), list[int](), list[Matrix]()
    for content_id, matrix in vectors:
        lengths = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
        if not np.all(np.isfinite(lengths) & (lengths > 0)):
            continue
        ids += [content_id] * len(matrix)
        parts += range(len(matrix))
        unit.append((matrix / lengths).astype(np.float32))
    if not ids:
        return b""
    embedding = np.concatenate(unit)
    dim = embedding.shape[1]
    fields = [("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i8"), ("part_bytes", ">i4"), ("part", ">i4")]
    fields += [("bytes", ">i4"), ("dim", ">i2"), ("unused", ">i2")]
    rows = np.zeros(len(ids), np.dtype([*fields, ("numbers", ">f2", (dim,))]))
    for name, value in {"fields": 3, "id_bytes": 8, "part_bytes": 4, "bytes": 4 + 2 * dim, "dim": dim}.items():
        rows[name] = value
    rows["id"], rows["part"], rows["numbers"] = ids, parts, embedding
    return rows.tobytes()


def _require_pgvector(database: Database) -> None:
    if database.server is None:
        raise StorageError(
            "a SQLite store has no index of vectors: `docmill search` compares every document. "
            "An index is made in a PostgreSQL that has pgvector"
        )
    with database.read() as transaction:
        there_is = transaction.exec_driver_sql(
            "SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'vector'"
        ).one_or_none()
    if there_is is None:
        raise StorageError(
            f"the server of {database} has no pgvector; install it there (version 0.8 or newer, for Debian "
            "postgresql-NN-pgvector). Without it `docmill search` compares every document"
        )
    installed, available = there_is
    version = installed or available
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise StorageError(
            f"the database {database} has pgvector {version}; an index takes 0.8 or newer "
            "(once that is installed, ALTER EXTENSION vector UPDATE)"
        )
    if installed is None:
        try:
            database.write(lambda transaction: transaction.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector"))
        except RightMissing as error:
            raise StorageError(
                f"the user of the database {database} may not bring in pgvector: have a superuser run "
                "CREATE EXTENSION vector in it, once"
            ) from error


def _read_dim(database: Database, spec_id: int) -> int:
    with database.read() as transaction:
        dim = vector_length(transaction, spec_id)
    if dim is None:
        raise NothingEmbedded(f"nothing has a vector under spec {spec_id}")
    if dim > MOST_NUMBERS:
        raise StorageError(f"its vectors have {dim:,} numbers, and an index takes at most {MOST_NUMBERS:,}")
    return dim


def _make(transaction: Transaction, spec_id: int, dim: int) -> None:
    """Make the side table, and let users who may read documents search by it."""
    name = name_of(spec_id)
    if not transaction.has_table(name):
        _do_not_wait_long(transaction)
        transaction.exec_driver_sql(
            f"CREATE TABLE {name} (spec_id bigint NOT NULL DEFAULT {spec_id:d} CHECK (spec_id = {spec_id:d}), "
            f"content_id bigint NOT NULL, part integer NOT NULL, embedding halfvec({dim:d}) NOT NULL, "
            f"CONSTRAINT pk_{name} PRIMARY KEY (content_id, part), CONSTRAINT fk_{name}_outcome "
            "FOREIGN KEY (spec_id, content_id) REFERENCES outcome (spec_id, content_id) ON DELETE CASCADE)"
        )
    readers = transaction.exec_driver_sql(
        "SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END FROM pg_class, aclexplode(relacl) "
        "WHERE pg_class.oid = 'document'::regclass AND privilege_type = 'SELECT' AND grantee <> relowner"
    )
    for reader in readers.scalars().all():
        transaction.exec_driver_sql(f"GRANT SELECT ON {name} TO {reader}")


@contextmanager
def alone(database: Database, spec_id: int) -> Iterator[None]:
    """Hold the advisory lock of a spec's index during the block. Raises DatabaseBusy if another process holds it.

    The lock belongs to a transaction that does nothing else. A session's lock would stay behind in a connection
    pooler. The transaction keeps no snapshot, since CREATE INDEX CONCURRENTLY would wait for its end.
    """
    with database.unhurried() as transaction:
        # Without parameters: with them the server keeps the statement, and its snapshot, until the transaction ends.
        statement = f"SELECT pg_try_advisory_xact_lock({_LOCK:d}, {spec_id:d})"
        if not transaction.exec_driver_sql(statement).scalar_one():
            raise DatabaseBusy(f"another process makes the index of spec {spec_id} at this moment")
        yield


def _do_not_wait_long(transaction: Transaction) -> None:
    """Limit the wait for locks: a foreign key locks its table, and statements queue behind one that waits."""
    transaction.exec_driver_sql("SET LOCAL lock_timeout = '2s'")


def _add_page(database: Database, spec_id: int, dim: int, last: int) -> tuple[int, int] | None:
    """Add the next lacking contents. Return their number and the last one; None if there are no more."""
    from docmill.storage.core import postgresql  # loads the driver

    n_contents = max(1, min(PAGE, PAGE_NUMBERS // dim))

    def work(transaction: Transaction) -> tuple[int, int] | None:
        transaction.keep_contents()
        transaction.prefer_indexes()
        query = without(spec_id).add_columns(OutcomeRow.vector)
        query = query.where(OutcomeRow.status == "done", OutcomeRow.content_id > last)
        rows = transaction.execute(query.order_by(OutcomeRow.content_id).limit(n_contents)).all()
        if not rows:
            return None
        vectors = [(row.content_id, np.frombuffer(row.vector, "<f4").reshape(-1, dim)) for row in rows]
        transaction.keep_key_plans()
        postgresql.copy_binary(
            transaction.connection, f"COPY {name_of(spec_id)} (content_id, part, embedding)", rows_of(vectors)
        )
        return len(rows), rows[-1].content_id

    return database.write(work)


def _build(database: Database, spec_id: int, dim: int) -> None:
    """Build the index concurrently, since removals hold up all workers while they wait."""
    name, index = name_of(spec_id), _index(spec_id)
    with database.outside_transactions() as (transaction, is_pooled):
        if size(transaction, spec_id) is None:
            if not is_pooled:  # behind a pooler the setting would stay in another client's session
                _ask_for_memory(transaction, name, dim)
            transaction.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")  # left by an interrupted build
            transaction.exec_driver_sql(
                f"CREATE INDEX CONCURRENTLY {index} ON {name} USING hnsw (embedding halfvec_cosine_ops) "
                f"WITH ({CONSTRUCTION})"
            )
        # So that lacking contents are found by indexes alone, and removed vectors leave the file.
        transaction.exec_driver_sql(f"VACUUM (ANALYZE) {name}")


def _ask_for_memory(transaction: Transaction, name: str, dim: int) -> None:
    n_vectors = transaction.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()  # noqa: S608
    has_kb = transaction.exec_driver_sql(
        "SELECT setting::bigint FROM pg_settings WHERE name = 'maintenance_work_mem'"
    ).scalar_one()
    needs_kb = min(MOST_MEMORY_KB, n_vectors * (2 * dim + BYTES_BESIDE) // 1_024)
    transaction.exec_driver_sql(f"SET maintenance_work_mem = {max(has_kb, needs_kb)}")


def _index(spec_id: int) -> str:
    return f"ix_{name_of(spec_id)}_embedding"


def _describe(transaction: Transaction, row: AnyRow) -> VectorIndex:
    name = name_of(row.id)
    vectors, taken = transaction.exec_driver_sql(
        f"SELECT count(*), pg_total_relation_size('{name}') FROM {name}"  # noqa: S608
    ).one()
    n_lacking = len(find_lacking(transaction, row.id))
    return VectorIndex(row.id, spec_of(row), vectors, n_lacking, taken, size(transaction, row.id) is not None)
