"""Stores for the benchmarks: a fresh database on a PostgreSQL that runs, a SQLite file, a Redis of the run's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis
from psycopg import sql
from sqlalchemy.engine import make_url

from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.tasks.kinds import STORED_KINDS as KINDS

# Its user may make databases.
POSTGRES_URL = os.environ.get("DOCMILL_BENCH_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")


@contextmanager
def fresh_postgres(empty: bool = False) -> Iterator[str]:
    """The URL of a new database, `empty` or with docmill's schema; it goes when the block ends."""
    server = make_url(POSTGRES_URL)
    name = f"docmill_bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = server.set(database=name).render_as_string(hide_password=False)
            yield url if empty else _with_schema(url)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def fresh_sqlite(folder: Path) -> Iterator[str]:
    """The URL of a new file with docmill's schema; it goes when the block ends."""
    path = folder / f"{uuid.uuid4().hex[:12]}.db"
    try:
        yield _with_schema(f"sqlite:///{path}")
    finally:
        for file in folder.glob(f"{path.name}*"):
            file.unlink()


def _with_schema(url: str) -> str:
    database = Database(url, kinds=KINDS)
    migrations.upgrade(database)
    database.close()
    return url


@contextmanager
def own_redis(folder: Path) -> Iterator[tuple[str, int]]:
    """A Redis that writes nothing to disk, as long as the block lasts: its URL and its process."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("this benchmark starts a Redis of its own; install redis-server")
    socket = folder / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(unix_socket_path=str(socket))
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        client.close()
        yield f"unix://{socket}", server.pid
    finally:
        server.terminate()
        server.wait()
