"""Row ids that are never reused, even after the last row of a table was deleted.

PostgreSQL's sequences never reuse an id. SQLite gives the id after the largest existing one. But ids outlive their
rows: shards name contents, workers name shards, jobs name the last document that they cover. So deletion records the
largest id.
"""

from __future__ import annotations

from sqlalchemy import Connection


def first_free(connection: Connection, table: str) -> int:
    """The number of the next row of a table in SQLite."""
    query = (
        f"SELECT 1 + max(coalesce((SELECT max(id) FROM {table}), 0), "  # noqa: S608
        "coalesce((SELECT id FROM last_id WHERE name = ?), 0))"
    )
    return int(connection.exec_driver_sql(query, (table,)).scalar_one())


def keep(connection: Connection, *tables: str) -> None:
    """Note the last numbers of these tables, before rows of theirs are deleted."""
    if connection.dialect.name != "sqlite":
        return
    for table in tables:
        connection.exec_driver_sql(
            f"INSERT INTO last_id (name, id) SELECT ?, coalesce(max(id), 0) FROM {table} WHERE true "  # noqa: S608
            "ON CONFLICT (name) DO UPDATE SET id = max(excluded.id, last_id.id)",
            (table,),
        )
