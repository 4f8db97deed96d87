"""Extend all leases after the store was out of reach.

Leases lapse by the store's clock. While the store is out of reach, or all machines are suspended, workers cannot
renew them. So supervisors regularly note that the store answers. After a gap in these notes each lease is extended
once.
"""

from __future__ import annotations

from sqlalchemy import select, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Lease, Shard
from docmill.storage.core.tables import db_now
from docmill.storage.core.transaction import Transaction

NOTE = "store answers"  # the row of `lease` with the time of the last note
PARTS = 8  # notes are written at most this often during a lease


def contact(database: Database, lease_s: float) -> float:
    """Note that the store answers, and return its time.

    After a gap of half a lease, extend every lease to a whole one from now. Workers renew a lease six times while it
    lasts, so a shorter gap lets none lapse.
    """

    def work(transaction: Transaction) -> float:
        query = select(Lease.until, db_now().label("now")).where(Lease.name == NOTE)
        note = transaction.execute(transaction.for_update(query)).one_or_none()
        now: float = transaction.execute(select(db_now())).scalar_one() if note is None else note.now
        if note is None or now - note.until > lease_s / 2:
            held = update(Shard).where(Shard.state == "running", Shard.lease_until < now + lease_s)
            transaction.execute(held.values(lease_until=now + lease_s))
        if note is None or now - note.until > lease_s / PARTS:
            values = {"owner": "", "until": now}
            insert = transaction.insert(Lease).values(name=NOTE, **values)
            transaction.execute(insert.on_conflict_do_update(index_elements=["name"], set_=values))
        return now

    return database.write(work)
