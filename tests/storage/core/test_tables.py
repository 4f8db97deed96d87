"""Rows of tables are instances of the tables' classes."""

from __future__ import annotations

from sqlalchemy import func, insert, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Corpus


def test_a_row_of_a_table_has_its_values_and_those_of_further_columns_leave_them(database: Database) -> None:
    row = {"id": 3, "name": "reports", "n_documents": 0, "created_at": 5.0}
    database.write(lambda transaction: transaction.execute(insert(Corpus).values(**row)))
    with database.read() as transaction:
        found = Corpus.of(transaction.execute(select(Corpus, func.count().label("n")).group_by(Corpus.id)).one())
    assert (found.id, found.name, found.created_at) == (3, "reports", 5.0)
    assert str(Corpus.name) == "corpus.name", "the class still stands for the table"
