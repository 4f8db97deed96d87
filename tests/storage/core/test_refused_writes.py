"""A store that takes no writes, now or at all: it can be read, and says why it is not written."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from docmill.storage.core.database import Database
from docmill.storage.deletion import retention
from docmill.storage.errors import DatabaseBusy, DatabaseReadOnly
from docmill.storage.leases import dispatch, maintenance, shards
from docmill.storage.leases.shards import Claim
from docmill.storage.pipelines import pipelines
from docmill.storage.results import results, status
from docmill.storage.steps import jobs
from tests.kinds import KINDS
from tests.postgres import PostgresServer
from tests.storage.builders import claim_next, commit_next, done, failed, lapse, numbered, read, request, set_shard

CLAIM = Claim(1, 1, 1, "w1", 1, False, 1, contents=(1,), texts=((1, "text 0"),), started_at=0.0)
READS: dict[str, Callable[[Database], Any]] = {
    "list_statuses": status.list_statuses,
    "results": lambda database: list(results.results(database, 1)),
    "lanes": dispatch.lanes,
    "let_go_all": partial(pipelines.let_go_all, owner="w1"),  # there is nothing to let go
    "forget_runs": partial(retention.forget_runs, older_than_s=1e9),  # there is nothing to forget
    "fold_shards": partial(retention.fold_shards, older_than_s=1e9),
    "sweep": partial(retention.sweep, ages=retention.upkeep_ages(1e9)),
}
WRITES: dict[str, Callable[[Database], Any]] = {
    "open_job": partial(jobs.open_job, request=request("c.jsonl")),
    "commit": partial(shards.commit, claim=CLAIM, outcomes=done(CLAIM), runtime=None),
    "reclaim": maintenance.reclaim,
}
every_read = pytest.mark.parametrize("act", READS.values(), ids=READS)
every_write = pytest.mark.parametrize("act", WRITES.values(), ids=WRITES)


@pytest.fixture(scope="module")
def sqlite_store(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> URL:
    """A SQLite store with something to do for these functions. None of these tests can write to it."""
    path = tmp_path_factory.mktemp("prepared") / "docmill.db"
    shutil.copy(_sqlite_template, path)
    return prepared(f"sqlite:///{path}")


@pytest.fixture(scope="module")
def postgres_store(postgres_server: PostgresServer) -> Iterator[URL]:
    """The same on PostgreSQL."""
    name = postgres_server.lend()
    yield prepared(postgres_server.url(name))
    postgres_server.take_back(name)


def prepared(url: str) -> URL:
    """A job with a shard whose lease has lapsed (`CLAIM`), one that failed and one that is planned, and a worker.

    A text of a cancelled job belongs to no document.
    """
    database = Database(url, kinds=KINDS)
    dispatch.sign_on(database, worker_id="w1", host="h", pid=1, device="cpu", lanes=["copy"], slots=1, version="0")
    read(database, request(), numbered(600))
    lapse(database, claim_next(database).shard_id)
    set_shard(database, CLAIM.shard_id, started_at=CLAIM.started_at)
    commit_next(database, failed)
    read(database, request("b.jsonl", corpus="loose"), [("k", "loose")])
    jobs.cancel(database, 2)
    loose = text("DELETE FROM document WHERE corpus_id = 2")
    database.execute(loose)
    database.close()
    return database.url


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Another writer holds the file."""
    path = url.removeprefix("sqlite:///")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


@pytest.fixture
def impatient(sqlite_store: URL) -> Iterator[Database]:
    """A store that loses its patience at once."""
    database = Database(f"sqlite:///{sqlite_store.database}", retries=2, busy_timeout_s=0.01, kinds=KINDS)
    yield database
    database.close()


@every_write
def test_a_write_to_a_locked_sqlite_file_is_tried_again_and_then_says_that_it_is_busy(
    impatient: Database, act: Callable[[Database], Any]
) -> None:
    with locked(str(impatient)), pytest.raises(DatabaseBusy, match="locked by another writer"):
        act(impatient)


@pytest.fixture(params=["sqlite", "postgresql"])
def read_only(request: pytest.FixtureRequest) -> Iterator[Database]:
    if request.param == "sqlite":
        store: URL = request.getfixturevalue("sqlite_store")
        database = Database(f"sqlite:///file:{store.database}?mode=ro&uri=true", kinds=KINDS)
    else:
        store = request.getfixturevalue("postgres_store")
        options = "-csynchronous_commit=off -cdefault_transaction_read_only=on"
        url = store.update_query_dict({"options": options}).render_as_string(hide_password=False)
        database = Database(url, kinds=KINDS)
    yield database
    database.close()


@every_write
def test_a_write_to_a_read_only_store_says_so_at_once(read_only: Database, act: Callable[[Database], Any]) -> None:
    with pytest.raises(DatabaseReadOnly):
        act(read_only)


@every_read
def test_a_read_only_store_can_be_read(read_only: Database, act: Callable[[Database], Any]) -> None:
    act(read_only)
