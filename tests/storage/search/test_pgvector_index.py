"""Indexes of vectors are made, maintained and dropped, on a PostgreSQL with pgvector."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import text, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow, db_now
from docmill.storage.deletion import gc, removal
from docmill.storage.deletion.removal import trace
from docmill.storage.errors import DatabaseBusy, StorageError
from docmill.storage.search import pgvector_index
from docmill.storage.search.search import choose
from docmill.storage.steps import jobs
from tests.kinds import KINDS
from tests.storage.builders import EMBED, at_once, numbered, read, request, work
from tests.storage.indexes import count_indexed, database, make_index, search_both_ways, uses_index, whatever_it_costs
from tests.storage.search.test_search import embed, embedded, vector_of

__all__ = ["database", "whatever_it_costs"]


def test_removed_and_dropped_vectors_leave_the_index(database: Database) -> None:
    embed(database, numbered(40))
    embed(database, numbered(1, first=39), "b.jsonl", corpus="poems")
    searched = make_index(database)
    assert trace(database, "text 3").indexed == 1
    removal.remove_documents(database, "books", ["k3"])
    assert (count_indexed(database), trace(database, "text 3").is_nowhere) == (39, True)
    database.execute(update(OutcomeRow).where(OutcomeRow.content_id <= 10).values(created_at=db_now() - 7_200))
    jobs.finish(database)
    gc.drop(database, older_than_s=3_600)
    assert count_indexed(database) == 30
    search_both_ways(database, searched, vector_of("text 20"))
    removal.remove_corpus(database, "books")
    assert count_indexed(database) == 1
    removal.remove_corpus(database, "poems")
    assert (count_indexed(database), pgvector_index.list_indexes(database)[0].vectors) == (0, 0)


def test_an_index_whose_building_was_interrupted_is_not_used_and_built_again(database: Database) -> None:
    embed(database, numbered(40))
    searched = make_index(database)

    cut_off = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST('ix_vectors_1_embedding' AS regclass)"
    database.execute(text(cut_off))
    assert not pgvector_index.list_indexes(database)[0].ready
    assert not uses_index(database, searched, vector_of("text 1"))
    make_index(database)
    assert pgvector_index.list_indexes(database)[0].ready
    search_both_ways(database, searched, vector_of("text 1"))


def test_an_index_that_was_partly_filled_is_continued(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(n_added: int) -> None:
        if n_added >= 14:
            raise KeyboardInterrupt

    monkeypatch.setattr(pgvector_index, "PAGE", 7)
    embed(database, numbered(40))
    searched = choose(database, ["books"])
    with pytest.raises(KeyboardInterrupt):
        pgvector_index.add(database, searched.spec_id, cut_off)
    assert (count_indexed(database), pgvector_index.list_indexes(database)[0].ready) == (14, False)
    assert not uses_index(database, searched, vector_of("text 1"))
    assert pgvector_index.add(database, searched.spec_id) == 26
    search_both_ways(database, searched, vector_of("text 1"))


def test_an_index_is_made_beside_workers_and_removals(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector_index, "PAGE", 5)
    embed(database, numbered(200))
    embed(database, numbered(60, first=500), "p.jsonl", corpus="poems")
    read(database, request("b.jsonl", spec=EMBED), numbered(100, first=200))
    searched = choose(database, ["books"])
    at_once(
        lambda: pgvector_index.add(database, searched.spec_id),
        lambda: work(database, embedded),
        lambda: removal.remove_corpus(database, "poems").documents,
    )
    pgvector_index.add(database, searched.spec_id)
    assert (count_indexed(database), pgvector_index.list_indexes(database)[0].lacking) == (300, 0)
    for query in ("text 7", "text 299", "text 510"):
        search_both_ways(database, searched, vector_of(query))


def test_two_processes_cannot_make_one_index_at_once(database: Database) -> None:
    embed(database, numbered(40))
    searched = choose(database, ["books"])
    with (
        pgvector_index.alone(database, searched.spec_id),
        pytest.raises(DatabaseBusy, match="another process makes the index"),
    ):
        pgvector_index.add(database, searched.spec_id)
    assert pgvector_index.add(database, searched.spec_id) == 40


def as_user(database: Database, name: str) -> closing[Database]:
    """Open the database as another user."""
    return closing(Database(database.url.set(username=name).render_as_string(hide_password=False), kinds=KINDS))


def as_superuser(database: Database) -> psycopg.Connection[Any]:
    """Connect to the database as a superuser."""
    return psycopg.connect(database.url.set(drivername="postgresql").render_as_string(False), autocommit=True)


def test_a_user_who_may_read_documents_may_search_by_the_index(database: Database) -> None:
    embed(database, numbered(40))
    with as_superuser(database) as owner:
        owner.execute('CREATE ROLE "the reader" LOGIN')
        owner.execute("CREATE ROLE worker LOGIN")
        try:
            tables = "corpus, document, content, job, step, spec, vector_length, outcome"
            owner.execute(f'GRANT SELECT ON {tables} TO "the reader"')
            owner.execute("GRANT SELECT ON outcome TO worker")
            searched = make_index(database)
            with as_user(database, "the reader") as reader:
                search_both_ways(reader, searched, vector_of("text 1"))
            may_read = owner.execute("SELECT has_table_privilege('worker', 'vectors_1', 'SELECT')").fetchone()
            assert may_read == (False,)
            pgvector_index.drop(database, searched.spec_id)
        finally:
            owner.execute('DROP OWNED BY "the reader", worker')
            owner.execute('DROP ROLE "the reader", worker')


def test_a_user_who_may_not_install_pgvector_is_told_who_may(database: Database) -> None:
    with as_superuser(database) as superuser:
        superuser.execute("CREATE ROLE plain LOGIN")
        try:
            refused = pytest.raises(StorageError, match="have a superuser run CREATE EXTENSION vector")
            with as_user(database, "plain") as plain, refused:
                pgvector_index.add(plain, 1)
        finally:
            superuser.execute("DROP ROLE plain")


def test_sqlite_has_no_index_and_says_so(sqlite: Database) -> None:
    embed(sqlite, numbered(4))
    with pytest.raises(StorageError, match="a SQLite store has no index"):
        pgvector_index.add(sqlite, 1)
    assert pgvector_index.list_indexes(sqlite) == []
    assert not pgvector_index.drop(sqlite, 1)
    assert not uses_index(sqlite, choose(sqlite, ["books"]), vector_of("text 1"))
