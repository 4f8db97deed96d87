"""Stores for the benchmarks: a new database on a running PostgreSQL server, a SQLite file, and a Redis server."""

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

# The user in this URL needs the right to create databases.
POSTGRES_URL = os.environ.get("DOCMILL_BENCH_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")


@contextmanager
def fresh_postgres(empty: bool = False) -> Iterator[str]:
    """Yield the URL of a new database, `empty` or with docmill's schema. Drop it when the block ends."""
    server = make_url(POSTGRES_URL)
    name = f"docmill_bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = server.set(database=name).render_as_string(hide_password=False)
            yield url if empty else _create_schema(url)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def fresh_sqlite(folder: Path) -> Iterator[str]:
    """Yield the URL of a new SQLite file with docmill's schema. Delete it when the block ends."""
    path = folder / f"{uuid.uuid4().hex[:12]}.db"
    try:
        yield _create_schema(f"sqlite:///{path}")
    finally:
        for file in folder.glob(f"{path.name}*"):
            file.unlink()


def _create_schema(url: str) -> str:
    """Create docmill's schema in an empty store, and return the store's URL."""
    database = Database(url, kinds=KINDS)
    migrations.upgrade(database)
    database.close()
    return url


@contextmanager
def own_redis(folder: Path) -> Iterator[tuple[str, int]]:
    """Start a Redis server that writes nothing to disk. Yield its URL and process id. Stop it when the block ends."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("This benchmark starts its own Redis server. Install redis-server.")
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
