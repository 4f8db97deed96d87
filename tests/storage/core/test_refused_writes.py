"""Every function on a store that takes no writes, now or at all: it can be read, and says why it is not written."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from storage.core.database import Database
from storage.errors import DatabaseBusy, DatabaseReadOnly
from tests.kinds import KINDS
from tests.postgres import PostgresServer
from tests.storage.core.store_functions import READS, WRITES, prepare

every_read = pytest.mark.parametrize("act", READS.values(), ids=READS)
every_write = pytest.mark.parametrize("act", WRITES.values(), ids=WRITES)


@pytest.fixture(scope="module")
def sqlite_store(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> URL:
    """A SQLite store with something to do for every function. None of these tests can write to it."""
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
    database = Database(url, kinds=KINDS)
    prepare(database)
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


@every_read
def test_a_read_of_a_locked_sqlite_file_goes_on(impatient: Database, act: Callable[[Database], Any]) -> None:
    with locked(str(impatient)):
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
