"""A transaction does the same on every database."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from psycopg.pq import Format
from sqlalchemy import delete, func, select

from docmill.storage.core import lookups
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, JobKey
from docmill.storage.core.sqlite import ROWS
from docmill.storage.core.transaction import IN_BINARY, Columns, Transaction
from docmill.storage.errors import DatabaseBusy, ValueRefused
from tests.storage.builders import limit_sqlite


def test_the_id_of_a_deleted_row_is_not_used_again(database: Database) -> None:
    texts = ["a", "b"]
    database.write(
        lambda transaction: transaction.load(Content, columns_of(texts, transaction.next_ids(Content, len(texts))[0]))
    )

    def remove(transaction: Transaction) -> int:
        last = max(transaction.scalars(select(Content.id)))
        transaction.keep_last_ids(Content)
        transaction.execute(delete(Content))
        return last

    last = database.write(remove)
    assert database.write(lambda transaction: transaction.own_id(Content)) in ({}, {"id": last + 1})
    assert database.write(lambda transaction: transaction.next_ids(Content, 2)) == [last + 1, last + 2]


def test_any_number_of_values_is_looked_up(database: Database) -> None:
    if database.server is None:
        limit_sqlite(database, sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)  # as SQLite is built by default
    with database.read() as transaction:
        assert lookups.n_chars(transaction, range(1, 70_000)) == {}
        assert transaction.content_ids([n.to_bytes(32) for n in range(40_000)]) == {}


TEXTS = ["plain", "", "\\N", "a\tb\nc\r\\.\n", '"quoted", \\"', "Größe 中文 🐋", "NULL", "\x01\x7f", "x" * 100_000]


def columns_of(texts: Sequence[str], first_id: int = 1) -> Columns:
    """Return the columns of contents with these texts."""
    return {
        "id": [*range(first_id, first_id + len(texts))],
        "sha256": [hashlib.sha256(text.encode()).digest() for text in texts],
        "text": texts,
        "n_chars": [len(text) for text in texts],
    }


def load(database: Database, table: Any, columns: Columns) -> None:
    database.write(lambda transaction: transaction.load(table, columns))


def stored_texts(database: Database) -> list[str]:
    return list(database.values(select(Content.text).order_by(Content.id)))


def test_rows_in_binary_are_the_rows_as_text(database: Database) -> None:
    columns = columns_of(TEXTS)
    load(database, Content, columns)
    query = select(Content.id, Content.sha256, Content.text, Content.n_chars).order_by(Content.id)
    with database.read() as transaction:
        result = transaction.execute(query, execution_options={IN_BINARY: True})
        if database.server:
            assert result.cursor is not None
            assert result.cursor.format == Format.BINARY
        rows = [tuple(row) for row in result]
        assert [tuple(row) for row in transaction.execute(query)] == rows, "the next statement, too"
    assert rows == list(zip(*columns.values(), strict=True))


def test_json_and_numbers_and_null_are_read_back_unchanged(database: Database) -> None:
    arguments = [{"a": ['"', "\\", "é🐋", None, 1.5, True]}, {}, {"long": "x" * 10_000}]
    columns: Columns = {
        "key": ["a", "b", "c", "d"],
        "job_id": [0, 2**31 - 1, 2**40, 1],
        "arguments": [*(orjson.dumps(value).decode() for value in arguments), None],
        "created_at": [0.1, -1e300, 1.7e9, 1.0],
    }
    load(database, JobKey, columns)
    query = select(JobKey.key, JobKey.job_id, JobKey.arguments, JobKey.created_at).order_by(JobKey.key)
    rows = [tuple(row) for row in database.rows(query)]
    assert rows == [
        ("a", 0, arguments[0], 0.1),
        ("b", 2**31 - 1, arguments[1], -1e300),
        ("c", 2**40, arguments[2], 1.7e9),
        ("d", 1, None, 1.0),
    ]


@pytest.mark.parametrize("n", [0, 1, ROWS, ROWS + 1, 2 * ROWS + 3])
def test_any_number_of_rows_is_inserted_once(database: Database, n: int) -> None:
    load(database, Content, columns_of([f"text {number}" for number in range(n)]))
    assert stored_texts(database) == [f"text {number}" for number in range(n)]


def test_rows_that_another_writer_stored_leave_the_transaction_as_it_was(postgres: Database) -> None:
    load(postgres, Content, columns_of(["known"]))

    def try_loads(transaction: Transaction) -> tuple[bool, bool, int]:
        refused = transaction.try_load(Content, columns_of(["new", "known"], first_id=2))
        counted = transaction.scalar(select(func.count()).select_from(Content)) or 0
        return refused, transaction.try_load(Content, columns_of(["other"], first_id=2)), counted

    assert postgres.write(try_loads) == (False, True, 1)
    assert stored_texts(postgres) == ["known", "other"]


def test_a_refused_value_among_copied_rows_leaves_no_row(postgres: Database) -> None:
    with pytest.raises(ValueRefused) as caught:
        load(postgres, Content, columns_of(["sound", "secret \0"]))
    assert "secret" not in str(caught.value)
    with pytest.raises(DatabaseBusy, match="duplicate key"):
        load(postgres, Content, columns_of(["twice", "twice"]))
    assert stored_texts(postgres) == []


def test_only_missing_rows_are_inserted(database: Database) -> None:
    load(database, Content, columns_of([TEXTS[0]]))

    def insert(transaction: Transaction) -> list[tuple[int, str]]:
        columns = columns_of(TEXTS, first_id=10)
        inserted = transaction.insert_missing(Content, columns, Content.id, Content.text)
        assert transaction.insert_missing(Content, columns) == []
        return [(row.id, row.text) for row in inserted]

    assert sorted(database.write(insert)) == [(10 + n, text) for n, text in enumerate(TEXTS) if n]
    assert stored_texts(database) == TEXTS
