"""A lease on one row: taken under an increasing fence, renewed while its holder works, free again once it lapses.

The row's table has the columns `id`, `owner`, `lease_until` and `fence`. A lapse only permits another to take the
row; the fence decides, so every write of a holder names the fence that it was given. Times are the database's.
"""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import ColumnElement, Table, and_, or_, select, true, update

from docmill.storage.core.database import Database
from docmill.storage.core.tables import db_now


class Leased(Protocol):
    """A table whose rows can be taken."""

    @property
    def id(self) -> ColumnElement[int]: ...
    @property
    def owner(self) -> ColumnElement[str | None]: ...
    @property
    def lease_until(self) -> ColumnElement[float | None]: ...
    @property
    def fence(self) -> ColumnElement[int]: ...
    @property
    def __table__(self) -> Table: ...


def is_free(table: Leased) -> ColumnElement[bool]:
    """Return the condition for a row without a holder, or with a lapsed lease."""
    return or_(table.lease_until.is_(None), table.lease_until < db_now())


def is_held(table: Leased, row_id: int, fence: int) -> ColumnElement[bool]:
    """Return the condition for a row to be the one that was taken under this fence."""
    return and_(table.id == row_id, table.fence == fence)


def taken(table: Leased, owner: str, lease_s: float) -> dict[str, Any]:
    """Return the columns of a row that `owner` takes. `RETURNING fence` gives the fence for its writes."""
    return {"owner": owner, "lease_until": db_now() + lease_s, "fence": table.fence + 1}


def take(
    database: Database,
    table: Leased,
    row_id: int,
    owner: str,
    lease_s: float,
    *,
    where: ColumnElement[bool] | None = None,
    **values: Any,
) -> int | None:
    """Take a row if it is free and meets the condition `where`, and set more `values`. Returns its fence, else None.

    If the answer to a take is lost, nobody works under it, and it lapses as any other.
    """
    free = update(table.__table__).where(table.id == row_id, is_free(table), true() if where is None else where)
    statement = free.values(**taken(table, owner, lease_s), **values).returning(table.fence)
    return database.write(lambda transaction: transaction.scalar(statement))


def renew(database: Database, table: Leased, row_id: int, fence: int, lease_s: float) -> bool:
    """Renew the lease of a row that was taken under this fence; False if another took it, or if it was removed.

    A lease that lapsed is renewed, too, as long as nobody took the row meanwhile.
    """
    held = update(table.__table__).where(is_held(table, row_id, fence), table.lease_until.is_not(None))
    return database.write(lambda c: c.execute(held.values(lease_until=db_now() + lease_s)).rowcount > 0)


def let_go(database: Database, table: Leased, row_id: int, fence: int) -> None:
    """Let a lease lapse now, so that others need not wait. Another's lease is left as it is."""
    held = update(table.__table__).where(is_held(table, row_id, fence), table.lease_until.is_not(None))
    database.write(lambda transaction: transaction.execute(held.values(lease_until=db_now() - 1.0)))


def let_go_all(database: Database, table: Leased, owner: str) -> int:
    """Let every lease of one owner lapse now, since its process is dead or ends. Returns how many."""
    held = and_(table.owner == owner, table.lease_until >= db_now())
    with database.read() as transaction:  # most often there is none, and no need for a turn to write
        if transaction.scalar(select(table.id).where(held).limit(1)) is None:
            return 0
    lapsed = update(table.__table__).where(held).values(lease_until=db_now() - 1.0)
    return database.write(lambda transaction: transaction.execute(lapsed).rowcount)


FREE = {"owner": None, "lease_until": None}  # the columns of a row that its holder is done with
