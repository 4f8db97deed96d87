"""Copy a filled PostgreSQL store into a SQLite file, for the benchmark of the web page."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg

ROWS = 10_000
_COLUMNS = """SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = %s"""
_CASTS = {"jsonb": "text", "boolean": "int"}  # as SQLite stores them
_KEPT = {"alembic_version", "compatibility"}  # that the migrations wrote


def copy(url: str, path: Path) -> None:
    """Copy all rows of a store into a SQLite file that has docmill's schema and no rows."""
    with psycopg.connect(url) as source, sqlite3.connect(path) as target:
        target.execute("PRAGMA synchronous = off")
        objects = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
        made = target.execute(objects).fetchall()
        for kind, name, _ in made:
            target.execute(f'DROP {kind} "{name}"')
        names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        for (table,) in target.execute(names).fetchall():
            if table not in _KEPT:
                _copy_table(source, target, table)
        for _, _, statement in made:
            target.execute(statement)
    target.close()


def _copy_table(source: psycopg.Connection, target: sqlite3.Connection, table: str) -> None:
    types: dict[str, str] = dict(source.execute(_COLUMNS, [table]).fetchall())
    columns = [row[1] for row in target.execute(f'PRAGMA table_info("{table}")') if row[1] in types]
    if not columns:
        return
    cast = ", ".join(f'"{name}"::{_CASTS.get(types[name], types[name])}' for name in columns)
    named = ", ".join(f'"{name}"' for name in columns)
    into = f'INSERT INTO "{table}" ({named}) VALUES ({", ".join("?" * len(columns))})'
    target.execute(f'DELETE FROM "{table}"')
    with source.cursor(f"copy_{table}", binary=True) as rows:
        rows.itersize = ROWS
        rows.execute(f'SELECT {cast} FROM "{table}"'.encode())
        while chunk := rows.fetchmany(ROWS):
            target.executemany(into, chunk)
