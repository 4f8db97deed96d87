"""A locked or read-only store can be read, and refuses writes with the reason."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from docmill.storage.core.database import Database
from docmill.storage.deletion import retention
from docmill.storage.errors import DatabaseBusy, DatabaseReadOnly
from docmill.storage.leases import dispatch
from docmill.storage.pipelines import pipelines
from docmill.storage.results import results, status
from docmill.storage.steps import jobs
from tests.kinds import KINDS
from tests.postgres import PostgresServer
from tests.storage.builders import claim_next, commit_next, failed, numbered, read, request, sign_on

READS: dict[str, Callable[[Database], Any]] = {
    "list_statuses": status.list_statuses,
    "results": lambda database: list(results.results(database, 1)),
    "lanes": dispatch.lanes,
    "let_go_all": partial(pipelines.let_go_all, owner="w1"),  # there is nothing to let go
    "forget_runs": partial(retention.forget_runs, older_than_s=1e9),  # there is nothing to forget
    "fold_shards": partial(retention.fold_shards, older_than_s=1e9),
    "sweep": partial(retention.sweep, ages=retention.upkeep_ages(1e9)),
}


@pytest.fixture(scope="module")
def sqlite_store(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> URL:
    """The URL of a prepared SQLite store, to which none of these tests can write."""
    path = tmp_path_factory.mktemp("prepared") / "docmill.db"
    shutil.copy(_sqlite_template, path)
    return prepare(f"sqlite:///{path}")


@pytest.fixture(scope="module")
def postgres_store(postgres_server: PostgresServer) -> Iterator[URL]:
    """The URL of a prepared store on PostgreSQL."""
    name = postgres_server.lend()
    yield prepare(postgres_server.url(name))
    postgres_server.take_back(name)


def prepare(url: str) -> URL:
    """Fill a store with a worker and with a job that has running, done and planned shards. Return the store's URL."""
    with closing(Database(url, kinds=KINDS)) as database:
        sign_on(database, "w1")
        read(database, request(), numbered(600))
        commit_next(database, failed)
        claim_next(database)
        return database.url


def write(database: Database) -> None:
    jobs.open_job(database, request("c.jsonl"))


def test_a_write_to_a_locked_sqlite_file_is_retried_and_then_fails_as_busy(sqlite_store: URL) -> None:
    with (
        closing(
            Database(f"sqlite:///{sqlite_store.database}", retries=2, busy_timeout_s=0.01, kinds=KINDS)
        ) as database,
        closing(sqlite3.connect(str(sqlite_store.database), isolation_level=None)) as writer,
    ):
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy, match="locked by another writer"):
            write(database)


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


def test_a_write_to_a_read_only_store_fails_at_once(read_only: Database) -> None:
    with pytest.raises(DatabaseReadOnly):
        write(read_only)


@pytest.mark.parametrize("act", READS.values(), ids=READS)
def test_a_read_only_store_can_be_read(read_only: Database, act: Callable[[Database], Any]) -> None:
    act(read_only)
