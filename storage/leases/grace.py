"""The grace of leases after the store was away: each is renewed once in the name of its holder.

Leases lapse by the store's clock. While nobody can reach the store, or all machines are suspended, nobody can renew
them either. So every supervisor notes now and then that the store answers, and a gap in these notes means a grace.
"""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from storage.core.database import Database, db_now
from storage.core.schema import Lease, Shard

NOTE = "store answers"  # a row of `lease`: the time of the last note
PARTS = 8  # of a lease: how often a note is written at most


def contact(database: Database, lease_s: float) -> float:
    """Note that the store answers, and return its time. A lease that lapses later lapses for another reason.

    Where nobody made a note for half a lease, no lease ends before another whole one. Half, because holders renew a
    lease six times while it lasts, so that a shorter gap lets none lapse.
    """

    def work(connection: Connection) -> float:
        query = select(Lease.until, db_now().label("now")).where(Lease.name == NOTE)
        note = connection.execute(query if database.is_sqlite else query.with_for_update()).one_or_none()
        now: float = connection.execute(select(db_now())).scalar_one() if note is None else note.now
        if note is None or now - note.until > lease_s / 2:
            held = update(Shard).where(Shard.state == "running", Shard.lease_until < now + lease_s)
            connection.execute(held.values(lease_until=now + lease_s))
        if note is None or now - note.until > lease_s / PARTS:
            values = {"owner": "", "until": now}
            insert = database.insert(Lease).values(name=NOTE, **values)
            connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=values))
        return now

    return database.write(work)
