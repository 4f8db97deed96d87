"""A fleet under a nemesis: whatever happens, and in whatever order, nothing is lost and nothing doubled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from tests.fault_points import FAULT
from tests.faults.campaign import AT_DEFAULTS, Campaign, Storm, seed_of_this_run
from tests.faults.fleet import Fleet
from tests.faults.servers import PostgresCluster, RedisServer
from tests.kinds import KINDS


@pytest.fixture
def on_sqlite(tmp_path: Path, sqlite_url: str) -> Iterator[Database]:
    database = Database(sqlite_url, kinds=KINDS)
    yield database
    database.close()


def blow(folder: Path, database: Database, queue: RedisServer, cluster: PostgresCluster | None, storm: Storm) -> None:
    given = {"lease_s": None, "upkeep_s": None, **storm.settings}
    fleet = Fleet(folder, database, queue.url, **given)
    fleet.environment[FAULT] = "text:kill"
    report = Campaign(fleet, queue, cluster, storm, seed_of_this_run()).run()
    assert report.faults.total() >= 0.5 * storm.seconds / storm.gap_s


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_nothing_is_lost_or_doubled_whatever_a_nemesis_does(
    store: str, tmp_path: Path, request: pytest.FixtureRequest, own_redis: RedisServer
) -> None:
    _blow_on(store, tmp_path, request, own_redis, Storm())


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_ten_minutes_at_default_settings(
    store: str, tmp_path: Path, request: pytest.FixtureRequest, own_redis: RedisServer
) -> None:
    _blow_on(store, tmp_path, request, own_redis, AT_DEFAULTS)


def _blow_on(store: str, folder: Path, request: pytest.FixtureRequest, queue: RedisServer, storm: Storm) -> None:
    if store == "sqlite":
        blow(folder, request.getfixturevalue("on_sqlite"), queue, None, storm)
    else:
        cluster = request.getfixturevalue("own_postgres")
        blow(folder, request.getfixturevalue("restartable"), queue, cluster, storm)
