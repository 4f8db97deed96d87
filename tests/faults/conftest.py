"""Fixtures of the fault tests. Every test of this folder has the marker `faults`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from tests.faults.fleet import Fleet
from tests.faults.servers import PostgresCluster, RedisServer, open_folder
from tests.kinds import KINDS, new_store

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def fleet(tmp_path: Path, database: Database, redis_url: str) -> Fleet:
    """A fleet on each kind of store, with a Redis."""
    return Fleet(tmp_path, database, redis_url)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may stop and kill."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[PostgresCluster]:
    """A PostgreSQL that tests may restart."""
    with open_folder() as folder, PostgresCluster(folder / "cluster") as cluster:
        yield cluster


@pytest.fixture
def restartable(own_postgres: PostgresCluster) -> Iterator[Database]:
    """A database with the schema on a PostgreSQL that the test may restart."""
    with new_store(own_postgres.create(), pool_size=12) as database:
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A SQLite file, and a PostgreSQL that can be restarted and restored."""
    if request.param == "postgresql":
        yield request.getfixturevalue("restartable")
        return
    with closing(Database(request.getfixturevalue("sqlite_url"), kinds=KINDS)) as database:
        yield database
