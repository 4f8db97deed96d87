"""A transaction does the same on every database, and nothing else in the code asks which database it is."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from psycopg.pq import Format
from sqlalchemy import delete, event, func, select

from docmill.storage.core import lookups
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, JobKey
from docmill.storage.core.sqlite import ROWS
from docmill.storage.core.transaction import IN_BINARY, Columns, Transaction
from docmill.storage.errors import DatabaseBusy, ValueRefused


def test_an_id_is_not_given_again_once_its_row_was_deleted(database: Database) -> None:
    texts = ["a", "b"]
    database.write(lambda made: made.load(Content, of_texts(texts, made.next_ids(Content, len(texts))[0])))

    def remove(transaction: Transaction) -> int:
        last = max(transaction.scalars(select(Content.id)))
        transaction.keep_last_ids(Content)
        transaction.execute(delete(Content))
        return last

    last = database.write(remove)
    assert database.write(lambda transaction: transaction.own_id(Content)) in ({}, {"id": last + 1})
    assert database.write(lambda transaction: transaction.next_ids(Content, 2)) == [last + 1, last + 2]


def test_any_number_of_values_is_looked_up(database: Database) -> None:
    if database.server is None:  # as SQLite is built by default
        limit = (sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
        event.listen(database.engine, "connect", lambda connection, _: connection.setlimit(*limit))
    with database.read() as transaction:
        assert lookups.n_chars(transaction, range(1, 70_000)) == {}
        assert transaction.content_ids([n.to_bytes(32) for n in range(40_000)]) == {}


TEXTS = ["plain", "", "\\N", "a\tb\nc\r\\.\n", '"quoted", \\"', "Größe 中文 🐋", "NULL", "\x01\x7f", "x" * 100_000]


def of_texts(texts: Sequence[str], first_id: int = 1) -> Columns:
    return {
        "id": [*range(first_id, first_id + len(texts))],
        "sha256": [hashlib.sha256(text.encode()).digest() for text in texts],
        "text": texts,
        "n_chars": [len(text) for text in texts],
    }


def load(database: Database, table: Any, columns: Columns) -> None:
    database.write(lambda transaction: transaction.load(table, columns))


def stored(database: Database) -> list[tuple[Any, ...]]:
    query = select(Content.id, Content.sha256, Content.text, Content.n_chars).order_by(Content.id)
    return [tuple(row) for row in database.rows(query)]


def test_rows_in_binary_are_the_rows_as_text(database: Database) -> None:
    columns = of_texts(TEXTS)
    load(database, Content, columns)
    query = select(Content.id, Content.sha256, Content.text, Content.n_chars).order_by(Content.id)
    with database.read() as transaction:
        result = transaction.execute(query, execution_options={IN_BINARY: True})
        if database.server:
            assert result.cursor is not None
            assert result.cursor.format == Format.BINARY
        found = [tuple(row) for row in result]
        assert [tuple(row) for row in transaction.execute(query)] == found, "the next statement, too"
    assert found == list(zip(*columns.values(), strict=True))


def test_json_numbers_and_nothing_come_back_as_they_were_given(database: Database) -> None:
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
def test_every_row_of_any_number_is_inserted_once(database: Database, n: int) -> None:
    load(database, Content, of_texts([f"text {number}" for number in range(n)]))
    assert [row[2] for row in stored(database)] == [f"text {number}" for number in range(n)]


def test_rows_that_another_writer_stored_leave_the_transaction_as_it_was(postgres: Database) -> None:
    load(postgres, Content, of_texts(["known"]))

    def try_it(transaction: Transaction) -> tuple[bool, bool, int]:
        refused = transaction.try_load(Content, of_texts(["new", "known"], first_id=2))
        counted = transaction.scalar(select(func.count()).select_from(Content)) or 0
        return refused, transaction.try_load(Content, of_texts(["other"], first_id=2)), counted

    assert postgres.write(try_it) == (False, True, 1)
    assert [row[2] for row in stored(postgres)] == ["known", "other"]


def test_a_value_that_cannot_be_copied_is_refused_as_any_other_and_no_row_stays(postgres: Database) -> None:
    with pytest.raises(ValueRefused) as caught:
        load(postgres, Content, of_texts(["sound", "secret \0"]))
    assert "secret" not in str(caught.value)
    with pytest.raises(DatabaseBusy, match="duplicate key"):
        load(postgres, Content, of_texts(["twice", "twice"]))
    assert stored(postgres) == []


def test_rows_that_may_be_known_are_inserted_where_they_are_not(database: Database) -> None:
    load(database, Content, of_texts([TEXTS[0]]))

    def insert(transaction: Transaction) -> list[tuple[int, str]]:
        columns = of_texts(TEXTS, first_id=10)
        made = transaction.insert_missing(Content, columns, Content.id, Content.text)
        assert transaction.insert_missing(Content, columns) == []
        return [(row.id, row.text) for row in made]

    assert sorted(database.write(insert)) == [(10 + n, text) for n, text in enumerate(TEXTS) if n]
    assert [row[2] for row in stored(database)] == TEXTS
