"""SQLite seeks the documents of a page by the index that leads to them, however many the corpus has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from docmill.storage.core.database import Database
from docmill.storage.deletion import removal
from docmill.storage.errors import NotFound
from docmill.storage.results.corpora import find_documents
from docmill.storage.results.results import samples
from tests.storage.builders import numbered, read, record_statements, request, work

READERS: tuple[Callable[[Database], object], ...] = (
    lambda database: find_documents(database, "k7"),
    lambda database: samples(database, 1),
    lambda database: removal.remove_readings(database, older_than_s=0.0),
)
WHOLE = ("SCAN document", "ix_document_corpus_id_id", "TEMP B-TREE FOR ORDER BY")


@pytest.mark.parametrize("reader", READERS)
def test_no_statement_reads_all_documents_of_a_corpus(sqlite: Database, reader: Callable[[Database], object]) -> None:
    read(sqlite, request(), numbered(10))
    work(sqlite)
    statements = record_statements(sqlite)
    with suppress(NotFound):
        reader(sqlite)
    of_documents = [(statement, values) for statement, values in statements if "FROM document" in statement]
    assert of_documents
    with sqlite.read() as transaction:
        for statement, values in of_documents:
            plan = str(transaction.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all())
            assert not [sign for sign in WHOLE if sign in plan], (statement, plan)
