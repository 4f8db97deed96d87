"""A fleet under a nemesis: whatever happens, and in whatever order, nothing is lost and nothing doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from tests.fault_points import FAULT
from tests.faults.campaign import AT_DEFAULTS, Campaign, Storm, seed_of_this_run
from tests.faults.fleet import Fleet
from tests.faults.servers import RedisServer

STORMS = [
    pytest.param(Storm(), marks=[pytest.mark.long, pytest.mark.timeout(600)], id="half a minute"),
    pytest.param(AT_DEFAULTS, marks=[pytest.mark.soak, pytest.mark.timeout(3600)], id="ten minutes"),
]


@pytest.mark.parametrize("storm", STORMS)
def test_nothing_is_lost_or_doubled_whatever_a_nemesis_does(
    tmp_path: Path, store: Database, own_redis: RedisServer, storm: Storm, request: pytest.FixtureRequest
) -> None:
    cluster = None if store.server is None else request.getfixturevalue("own_postgres")
    settings = {"lease_s": storm.lease_s, "upkeep_s": storm.upkeep_s, "drain_s": storm.drain_s}
    fleet = Fleet(tmp_path, store, own_redis.url, **settings)
    fleet.environment[FAULT] = "text:kill"
    report = Campaign(fleet, own_redis, cluster, storm, seed_of_this_run()).run()
    assert report.faults.total() >= 0.5 * storm.seconds / storm.gap_s
