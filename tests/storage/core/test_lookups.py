"""Rows are read in pages, each in a transaction of its own, in the order of a column."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import insert, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import delete_page, pages
from docmill.storage.core.schema import Document, RejectionRow
from tests.storage.builders import documents, numbered, read, request


@pytest.mark.parametrize(("size", "sizes"), [(2, [2, 2, 1]), (5, [5, 0]), (9, [5])])
def test_the_rows_of_a_query_come_once_and_in_order(database: Database, size: int, sizes: list[int]) -> None:
    read(database, request(), numbered(5))
    found = list(pages(database, select(Document.id, Document.key), Document.id, size))
    assert [len(page) for page in found] == sizes
    assert [row.key for page in found for row in page] == ["k0", "k1", "k2", "k3", "k4"]


def test_rows_may_be_deleted_between_two_pages(database: Database) -> None:
    read(database, request(), numbered(5))
    for page in pages(database, select(Document.id), Document.id, 2):
        these = Document.id.in_([row.id for row in page])
        assert database.write(partial(delete_page, table=Document, condition=these, size=10)) == len(page)
    assert documents(database) == {}


def test_no_more_rows_than_a_page_has_are_deleted_by_a_key_of_two_columns(database: Database) -> None:
    job = read(database, request(), numbered(3))
    rejected = [{"ingest_id": job.ingest_id, "place": place, "reason": "no"} for place in "abc"]
    database.write(lambda transaction: transaction.execute(insert(RejectionRow), rejected))
    some = partial(delete_page, table=RejectionRow, condition=RejectionRow.ingest_id == job.ingest_id, size=2)
    assert [database.write(some) for _ in range(3)] == [2, 1, 0]
