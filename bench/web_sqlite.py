"""Copy a filled PostgreSQL store into a SQLite file, for the benchmark of the web page."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg

CHUNK_ROWS = 10_000
_COLUMNS = """SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = %s"""
_CASTS = {"jsonb": "text", "boolean": "int"}  # SQLite stores these types as text and int
_FILLED_BY_MIGRATIONS = {"alembic_version", "compatibility"}


def copy_rows(url: str, path: Path) -> None:
    """Copy all rows of a PostgreSQL store into a SQLite file that has docmill's schema and no rows."""
    with psycopg.connect(url) as source, sqlite3.connect(path) as target:
        target.execute("PRAGMA synchronous = off")
        objects = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
        indexes_and_triggers = target.execute(objects).fetchall()
        for kind, name, _ in indexes_and_triggers:
            target.execute(f'DROP {kind} "{name}"')
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        for (table,) in target.execute(tables).fetchall():
            if table not in _FILLED_BY_MIGRATIONS:
                _copy_table(source, target, table)
        for _, _, statement in indexes_and_triggers:
            target.execute(statement)
    target.close()


def _copy_table(source: psycopg.Connection, target: sqlite3.Connection, table: str) -> None:
    types: dict[str, str] = dict(source.execute(_COLUMNS, [table]).fetchall())
    columns = [row[1] for row in target.execute(f'PRAGMA table_info("{table}")') if row[1] in types]
    if not columns:
        return
    casts = ", ".join(f'"{name}"::{_CASTS.get(types[name], types[name])}' for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    insert = f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(columns))})'
    target.execute(f'DELETE FROM "{table}"')
    with source.cursor(f"copy_{table}", binary=True) as rows:
        rows.itersize = CHUNK_ROWS
        rows.execute(f'SELECT {casts} FROM "{table}"'.encode())
        while chunk := rows.fetchmany(CHUNK_ROWS):
            target.executemany(insert, chunk)
