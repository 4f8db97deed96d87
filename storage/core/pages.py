"""Many rows in pages, each in a transaction of its own, so that none stays open for long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeVarTuple

from sqlalchemy import ColumnElement, Row, Select, delete, select, tuple_

from storage.core.database import Database
from storage.core.tables import Base
from storage.core.transaction import Transaction

Ts = TypeVarTuple("Ts")
Key: TypeAlias = ColumnElement[int] | ColumnElement[str]


def pages(
    database: Database, query: Select[*Ts], by: Key, size: int, after: int | str = 0
) -> Iterator[Sequence[Row[*Ts]]]:
    """Yield the rows of a query in the order of one of its columns, a unique one, from the value behind `after` on.

    No transaction is open while the caller works. The last page has fewer than `size` rows, perhaps none.
    """
    query = query.order_by(by).limit(size)
    while True:
        with database.read() as transaction:
            page = transaction.execute(query.where(by > after)).all()
        yield page
        if len(page) < size:
            return
        after = page[-1]._mapping[by]


def delete_page(transaction: Transaction, table: type[Base], condition: ColumnElement[bool], size: int) -> int:
    """Delete up to `size` of the rows that meet a condition. Return their number; 0 when none is left."""
    key = [*table.__table__.primary_key]
    page = select(*key).where(condition).limit(size)
    wanted = key[0] if len(key) == 1 else tuple_(*key)
    return transaction.execute(delete(table).where(wanted.in_(page))).rowcount
