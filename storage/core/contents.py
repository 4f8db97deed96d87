"""Get or create contents: unique texts, addressed by the hash of their UTF-8 bytes."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from storage.core import advisory_locks, bulk
from storage.core.database import Database
from storage.core.schema import Content


def store(
    database: Database, connection: Connection, texts: Mapping[bytes, str]
) -> tuple[dict[bytes, int], dict[int, int]]:
    """The id of every text by its hash, and {id: characters} of those that were not stored before."""
    advisory_locks.refer(database, connection)
    known = _ids(database, connection, list(texts))
    new = [sha256 for sha256 in texts if sha256 not in known] if known else list(texts)
    if not new:
        return known, {}
    ids = dict(zip(new, database.next_ids(connection, Content, len(new)), strict=True))
    if not database.is_sqlite:
        # In the order of their hashes, so that two writers of the same texts never wait for each other in a circle.
        new.sort()
    columns: bulk.Columns = {
        "id": [ids[sha256] for sha256 in new],
        "sha256": new,
        "text": [texts[sha256] for sha256 in new],
        "n_chars": [len(texts[sha256]) for sha256 in new],
    }
    if bulk.try_load(database, connection, Content, columns):
        return known | ids, dict(zip(columns["id"], columns["n_chars"], strict=True))
    made = bulk.insert(
        connection, Content, columns, "ON CONFLICT (sha256) DO NOTHING RETURNING id, sha256, n_chars"
    ).all()
    known |= {row.sha256: row.id for row in made}
    # Stored by another writer since we looked.
    known |= _ids(database, connection, [sha256 for sha256 in new if sha256 not in known])
    return known, {row.id: row.n_chars for row in made}


def _ids(database: Database, connection: Connection, hashes: list[bytes]) -> dict[bytes, int]:
    """The ids of those that are stored."""
    # Said to the driver, on PostgreSQL in one value: thousands of parameters cost more than the look-ups.
    if database.is_sqlite:
        places = ", ".join("?" * len(hashes))
        query = f"SELECT sha256, id FROM content WHERE sha256 IN ({places})"  # noqa: S608
        found = connection.exec_driver_sql(query, tuple(hashes))
    else:  # OFFSET 0: see `Database.probe`
        query = (
            "SELECT sha256, id FROM generate_series(1, %s::int, 32) AS start CROSS JOIN LATERAL "
            "(SELECT sha256, id FROM content WHERE sha256 = substring(%s::bytea FROM start FOR 32) OFFSET 0) AS found"
        )
        found = connection.exec_driver_sql(query, (32 * len(hashes), b"".join(hashes)))
    return {sha256: content_id for sha256, content_id in found}  # noqa: C416 - rows are not tuples to mypy
