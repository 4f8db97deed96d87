"""A database that lost confirmed commits: failover to a standby that lags, and a restored backup."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from docmill.storage.errors import LeaseLost, StorageError
from docmill.storage.ingest import ingest
from docmill.storage.leases import maintenance, shards
from docmill.storage.results.job_counts import runtimes
from docmill.storage.results.results import results
from docmill.storage.results.status import list_statuses, read_status
from docmill.storage.steps import jobs
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.faults.proxy import Proxy
from tests.faults.servers import PostgresCluster, open_folder
from tests.kinds import KINDS
from tests.storage import builders
from tests.storage.builders import claim_next, done
from tests.worker.harness import until

RUNTIME = {"device": "cpu", "precision": "-", "backend": "-", "versions": {}}

BackUp = Callable[[], Callable[[], None]]


def assert_own_texts(fleet: Fleet, job: int, texts: list[str]) -> None:
    """Assert that each result is its own text, as the model echoes."""
    assert {row["id"]: row["text"] for row in results(fleet.database, job)} == {
        str(place): text for place, text in enumerate(texts)
    }


class Pair:
    """A primary, a standby that follows it over a link, and an address that fails over."""

    def __init__(self, folder: Path, primary: PostgresCluster) -> None:
        self.primary = primary
        self.link = Proxy(primary.port)
        self.standby = PostgresCluster(folder / "standby", follows=self.link.port)
        self.address = Proxy(primary.port)

    def fail_over(self) -> None:
        self.primary.kill()
        self.standby.promote()
        self.address.upstream = self.standby.port
        self.address.cut_all()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        pair = Pair(folder, stack.enter_context(PostgresCluster(folder / "primary")))
        for server in (pair.link, pair.standby, pair.address):
            stack.enter_context(server)
        yield pair


def begun_jobs(fleet: Fleet) -> set[int]:
    return {row.job_id for row in fleet.shards(Shard.job_id, Shard.state) if row.state in {"running", "done"}}


def test_failover_to_a_standby_that_lost_the_last_commits_computes_them_again(
    tmp_path: Path, pair: Pair, redis_url: str
) -> None:
    url = make_url(pair.primary.create())
    with (
        closing(open_database(url, pair.address.port)) as database,
        closing(open_database(url, pair.standby.port)) as standby,
    ):
        migrations.upgrade(database)
        fleet, follower = Fleet(tmp_path, database, redis_url), Fleet(tmp_path, standby, None)
        # More rows than the numbers that PostgreSQL logs ahead: the new primary gives numbers of lost rows again.
        texts, lost_texts, later_texts = (numbered(40 * SHARD_TEXTS, n * 10**6) for n in range(3))
        job = fleet.give(texts, model="null@12000")
        claim = claim_next(database)
        shards.commit(database, claim, done(claim, "kept"), None)
        until(lambda: follower.states()["done"], "the standby follows")
        with pair.link.refusing(), fleet.worker(lease_s=60) as worker:
            until(lambda: fleet.states()["done"] > 3, "shards are done of which the standby knows nothing")
            lost = fleet.give(lost_texts, model="null@12000")
            until(lambda: lost in begun_jobs(fleet), "a shard of a job runs of which the standby knows nothing")
            assert (follower.states()["done"], follower.states()["running"]) == (1, 0)
            pair.fail_over()
            later = fleet.give(later_texts, model="null@12000")
            for job_id in (job, later):
                fleet.finish(job_id)
            assert [status.id for status in list_statuses(database)] == [later, job], "what was lost is not there"
            repeated = fleet.give(lost_texts, model="null@12000")
            fleet.finish(repeated)
            assert worker.poll() is None
        assert [row["text"] for row in results(database, job)].count("kept") == SHARD_TEXTS
        assert_own_texts(fleet, later, later_texts)
        assert_own_texts(fleet, repeated, lost_texts)
    assert "Traceback" not in fleet.log("worker")


def open_database(url: URL, port: int) -> Database:
    return Database(url.set(port=port).render_as_string(hide_password=False), pool_size=12, kinds=KINDS)


@pytest.fixture
def back_up(request: pytest.FixtureRequest, store: Database, tmp_path: Path) -> BackUp:
    """A function that makes a backup. It returns a function that restores the backup."""
    backup = tmp_path / "backup"

    def copy_file(file: Path) -> Callable[[], None]:
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        return partial(restore_file, store, backup, file)

    def dump(programs: Path) -> Callable[[], None]:
        url = store.url.set(drivername="postgresql").render_as_string(hide_password=False)
        run_program(programs / "pg_dump", "--format", "custom", "--file", backup, url)
        return partial(restore_dump, store, backup, url, programs)

    if store.file is not None:
        return partial(copy_file, store.file)
    return partial(dump, request.getfixturevalue("own_postgres").programs)


def restore_file(database: Database, backup: Path, file: Path) -> None:
    database.engine.dispose()
    for journal in ("-wal", "-shm"):
        file.with_name(file.name + journal).unlink(missing_ok=True)
    shutil.copy(backup, file)


def restore_dump(database: Database, backup: Path, url: str, programs: Path) -> None:
    name = sql.Identifier(str(database.url.database))
    with psycopg.connect(str(make_url(url).set(database="postgres")), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
    run_program(programs / "pg_restore", "--dbname", url, backup)
    database.engine.dispose()


def run_program(program: Path, *arguments: object) -> None:
    subprocess.run([program, *map(str, arguments)], check=True, capture_output=True)


def test_a_claim_of_a_shard_that_a_restored_backup_does_not_have_is_void(
    tmp_path: Path, store: Database, redis_url: str, back_up: BackUp
) -> None:
    fleet = Fleet(tmp_path, store, redis_url)
    restore = back_up()
    fleet.give(numbered(4))
    old = claim_next(store)
    assert shards.keep(store, [(old, done(old, "lost"), RUNTIME, ())]) == {old}
    restore()
    job = fleet.give(numbered(4, 100))
    new = claim_next(store)
    assert (old.shard_id, old.fence, old.owner) == (new.shard_id, new.fence, new.owner), "numbers are given again"
    with pytest.raises(LeaseLost):
        shards.commit(store, old, done(old, "of another text"), None)
    assert shards.keep(store, [(old, done(old, "of another text"), None, ())]) == set()
    shards.release(store, old, done(old, "of another text"))
    maintenance.failed_attempt(store, old, "an error")
    shards.commit(store, new, done(new), RUNTIME)
    shards.commit(store, new, done(new), RUNTIME)
    with pytest.raises(LeaseLost):
        shards.commit(store, old, done(old, "of another text"), None)
    fleet.finish(job)
    assert {row["text"] for row in results(store, job)} == {"out"}
    assert [(use.device, use.documents) for use in runtimes(store, job)] == [(RUNTIME["device"], 4)]


def test_a_reading_whose_database_loses_a_part_of_it_says_so_and_its_command_goes_on(
    store: Database, back_up: BackUp
) -> None:
    parts = builders.chunks(builders.numbered(9), 3)
    job = jobs.open_job(store, builders.request())
    counts = ingest.add(store, job, parts[0])
    restore = back_up()
    counts += ingest.add(store, job, parts[1])
    restore()
    counts += ingest.add(store, job, parts[2])
    with pytest.raises(StorageError, match=r"has lost 3 records that it had stored.* run the same command again"):
        ingest.end(store, job, counts)
    builders.read(store, builders.request(), builders.numbered(9))
    assert len(builders.documents(store)) == 9
    assert builders.work(store) > 0
    jobs.finish(store, job.id)
    assert read_status(store, job.id).done == 9
