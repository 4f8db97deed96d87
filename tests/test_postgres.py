"""Databases that one test has after the other."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.postgres import PostgresServer

NEW_CORPUS = "INSERT INTO corpus (name, n_documents, created_at) VALUES ('a', 0, 0) RETURNING id"

NUMBER = "SELECT oid FROM pg_database WHERE datname = current_database()"


def connected(server: PostgresServer, name: str) -> psycopg.Connection:
    url = make_url(server.url(name)).set(drivername="postgresql", query={})
    return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)


def test_the_next_test_has_an_empty_database_whose_name_no_earlier_one_knows(postgres_server: PostgresServer) -> None:
    first = postgres_server.lend()
    left_open = connected(postgres_server, first)
    (number,) = left_open.execute(NEW_CORPUS).fetchone() or (None,)
    left_open.execute("ANALYZE")
    left_open.execute(f"ALTER DATABASE {first} SET default_transaction_read_only = on")
    postgres_server.take_back(first)
    second = postgres_server.lend()
    with pytest.raises(psycopg.OperationalError):
        left_open.execute("SELECT 1")
    left_open.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connected(postgres_server, first)
    with connected(postgres_server, second) as connection:
        assert connection.execute("SELECT count(*) FROM corpus").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        assert connection.execute(NEW_CORPUS).fetchone() == (number,) == (1,)
    postgres_server.take_back(second)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE corpus ADD COLUMN more integer",
        "CREATE VIEW seen AS SELECT 1 AS one",
        "DROP INDEX ix_document_corpus_id_id",
        "GRANT SELECT ON corpus TO PUBLIC",
        "UPDATE compatibility SET oldest = 'other'",
        "ALTER ROLE postgres IN DATABASE {} SET default_transaction_read_only = on",
    ],
)
def test_a_database_whose_schema_was_changed_is_not_had_again(postgres_server: PostgresServer, change: str) -> None:
    name = postgres_server.lend()
    with connected(postgres_server, name) as connection:
        before = connection.execute(NUMBER).fetchone()
        connection.execute(change.format(name))
    postgres_server.take_back(name)
    again = postgres_server.lend()
    with connected(postgres_server, again) as connection:
        assert connection.execute(NUMBER).fetchone() != before
    postgres_server.take_back(again)
