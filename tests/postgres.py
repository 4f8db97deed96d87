"""Databases on a PostgreSQL. Each test has an empty one with the schema, which an earlier test may have used.

Making a database costs the server ten times as much as emptying one.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from functools import partial

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from tests.worker.harness import until

# A line for each thing that a test may change in a database beside rows.
_SCHEMA = """
WITH own AS (SELECT * FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
relations AS (SELECT c.* FROM pg_class c JOIN own ON own.oid = c.relnamespace)
SELECT 'schema', nspname, nspacl::text, '', '' FROM own
UNION ALL SELECT 'relation', oid::regclass::text, relkind::text, relowner::text, concat(relacl, reloptions)
    FROM relations
UNION ALL SELECT 'column', attrelid::regclass::text, attname, format_type(atttypid, atttypmod),
    concat(attnum, attnotnull, attacl, attstattarget, pg_get_expr(adbin, adrelid))
    FROM pg_attribute a JOIN relations ON relations.oid = attrelid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attnum > 0
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(k.oid), convalidated::text
    FROM pg_constraint k JOIN relations ON relations.oid = conrelid
UNION ALL SELECT 'index', pg_get_indexdef(indexrelid), indisvalid::text, '', ''
    FROM pg_index JOIN relations ON relations.oid = indexrelid
UNION ALL SELECT 'view', oid::regclass::text, pg_get_viewdef(oid), '', '' FROM relations WHERE relkind IN ('v', 'm')
UNION ALL SELECT 'function', p.oid::regprocedure::text, prosrc, proacl::text, ''
    FROM pg_proc p JOIN own ON own.oid = pronamespace
UNION ALL SELECT 'trigger', pg_get_triggerdef(t.oid), tgenabled::text, '', ''
    FROM pg_trigger t JOIN relations ON relations.oid = tgrelid
UNION ALL SELECT 'extension', extname, extversion, '', '' FROM pg_extension
UNION ALL SELECT 'setting', setrole::text, setconfig::text, '', ''
    FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = current_database()
UNION ALL SELECT 'database', datdba::text, datacl::text, datconnlimit::text, datallowconn::text
    FROM pg_database WHERE datname = current_database()
ORDER BY 1, 2, 3, 4, 5
"""
_TABLES = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p') AND nspname = 'public' AND pg_relation_size(c.oid) > 0 ORDER BY 1
"""
_OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
GONE_S = 10.0


class PostgresServer:
    """A server that lends databases. They are copies of the database `template`, which has the schema.

    A server of the run's own copies files, which takes half of the time of a copy by its log.
    """

    def __init__(self, admin_url: str, *, is_own: bool) -> None:
        self._url = make_url(admin_url)
        self._connection = self._connect(self._url)
        self._copies_files = is_own and self._connection.info.server_version >= 150000
        self.template = self.create()
        self._free: list[str] = []
        self._fresh: list[tuple[str, ...]] | None = None  # what a database is like before its first test
        self._kept: list[str] = []  # tables that have rows then

    def create(self, template: str | None = None) -> str:
        name = _new_name()
        copied = sql.SQL("TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
        if template and self._copies_files:
            copied += sql.SQL(" STRATEGY FILE_COPY")
        self._connection.execute(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), copied))
        return name

    def drop(self, name: str) -> None:
        self._connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def lend(self) -> str:
        """Return the name of an empty database with the schema, which no earlier test knows."""
        if self._free:
            old_name, name = self._free.pop(), _new_name()
            renamed = sql.SQL("ALTER DATABASE {} RENAME TO {}")
            self._connection.execute(renamed.format(sql.Identifier(old_name), sql.Identifier(name)))
            return name
        name = self.create(self.template)
        if self._fresh is None:
            with self._connect(self._url.set(database=name)) as connection:
                tables = [table for (table,) in connection.execute(_TABLES)]
                self._kept = [table for table in tables if _rows(connection, table)]
                self._fresh = self._state(connection)
        return name

    def take_back(self, name: str) -> None:
        """Empty a database for another test. One whose schema was changed is dropped."""
        with suppress(psycopg.Error, AssertionError), self._connect(self._url.set(database=name)) as connection:
            connection.execute("SET lock_timeout = '5s'")
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(sql.Identifier(name)))
            connection.execute(f"SELECT pg_terminate_backend(pid) {_OTHERS}")
            until(partial(_is_alone, connection), f"nobody uses {name}", GONE_S, every_s=0.002)
            used = [table for (table,) in connection.execute(_TABLES) if table not in self._kept]
            if self._state(connection) == self._fresh:
                if used:
                    connection.execute(f"TRUNCATE {', '.join(used)} RESTART IDENTITY CASCADE")
                connection.execute("DELETE FROM pg_statistic WHERE starelid >= 16384")  # of ANALYZE
                connection.execute("SELECT pg_stat_reset()")
                self._free.append(name)
                return
        self.drop(name)

    def _state(self, connection: psycopg.Connection) -> list[tuple[str, ...]]:
        rows = [(table, *map(str, row)) for table in self._kept for row in _rows(connection, table)]
        return [*connection.execute(_SCHEMA), *rows]

    def url(self, name: str) -> str:
        url: URL = self._url.set(drivername="postgresql+psycopg", database=name)
        # What is committed here need not outlast a power cut, and the tests commit often.
        url = url.update_query_dict({"options": "-csynchronous_commit=off"})
        return url.render_as_string(hide_password=False)

    def close(self) -> None:
        for name in (self.template, *self._free):
            self.drop(name)
        self._connection.close()

    @staticmethod
    def _connect(url: URL) -> psycopg.Connection:
        address = url.set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(address, autocommit=True, connect_timeout=5)


def _new_name() -> str:
    return f"docmill_test_{uuid.uuid4().hex[:12]}"


def _rows(connection: psycopg.Connection, table: str) -> list[tuple[object, ...]]:
    return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def _is_alone(connection: psycopg.Connection) -> bool:
    row = connection.execute(f"SELECT count(*) {_OTHERS}").fetchone()
    return row == (0,)
