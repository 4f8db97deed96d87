"""A PostgreSQL that takes no more connections: commands say so, workers wait, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.faults.servers import PostgresCluster, open_folder
from tests.kinds import KINDS, new_store
from tests.worker.harness import until

LIMITS = ("max_connections=10", "superuser_reserved_connections=2")
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'docmill'"
TO_DO = "raise its max_connections, run fewer workers, or put PgBouncer before it"


@pytest.fixture(scope="module")
def small() -> Iterator[PostgresCluster]:
    """A server that takes ten connections, of which two are kept for superusers."""
    with open_folder() as folder, PostgresCluster(folder / "cluster", options=LIMITS) as cluster:
        with psycopg.connect(cluster.admin_url, autocommit=True) as connection:
            connection.execute("CREATE ROLE docmill LOGIN")
        yield cluster


@pytest.fixture
def fleet(tmp_path: Path, small: PostgresCluster, redis_url: str) -> Iterator[Fleet]:
    """A fleet whose processes are an ordinary user of the database. The test itself is a superuser."""
    url = small.create()
    theirs = url.replace("postgres@", "docmill@")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("GRANT ALL ON SCHEMA public TO docmill")
    with new_store(theirs, pool_size=1):
        pass
    with closing(Database(url, pool_size=1, kinds=KINDS)) as database:
        fleet = Fleet(tmp_path, database, redis_url)
        fleet.environment["DOCMILL_DATABASE_URL"] = theirs
        yield fleet


@contextmanager
def full(fleet: Fleet) -> Iterator[None]:
    """End the connections of an ordinary user, and hold all that such a user can have.

    A connection that ends, or is being refused, takes a place for a moment. So several attempts in a row must fail.
    """
    ours = fleet.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    theirs = fleet.environment["DOCMILL_DATABASE_URL"]
    n_failed = 0
    with ExitStack() as stack:

        def is_full() -> bool:
            nonlocal n_failed
            superuser.execute(f"{END} AND usename = 'docmill'")
            try:
                stack.enter_context(psycopg.connect(theirs, application_name="the test", connect_timeout=5))
            except psycopg.OperationalError:
                query = "SELECT FROM pg_stat_activity WHERE usename = 'docmill' AND application_name <> 'the test'"
                n_failed = n_failed + 1 if superuser.execute(query).fetchone() is None else 0
            else:
                n_failed = 0
            return n_failed >= 5

        with psycopg.connect(ours, autocommit=True) as superuser:
            until(is_full, "there is no room")
            yield


def test_a_worker_waits_while_others_have_every_connection_and_commands_say_what_to_do(fleet: Fleet) -> None:
    path = fleet.corpus(numbered(3))
    job = fleet.give(numbered(12 * SHARD_TEXTS), model="null@2000")
    with fleet.worker(lease_s=60):
        until(lambda: fleet.states()["done"], "work has begun")
        with full(fleet):
            assert TO_DO in fleet("enqueue", "translate", path, "--model", "null", code=3).stderr
            until(lambda: TO_DO in fleet.log("worker"), "the worker says so, too")
        fleet.finish(job)
    assert {row.attempt for row in fleet.shards(Shard.attempt)} == {1}
    assert "Traceback" not in fleet.log("worker")
