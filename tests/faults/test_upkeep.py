"""Upkeep done twice at once, or cut short; and workers whose clocks are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard, db_now
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.worker.harness import DEADLINE_S, until

LEASE_S = 60
CLOCK = """
import time
true_time, true_time_ns = time.time, time.time_ns
time.time = lambda: true_time() + {offset_s}
time.time_ns = lambda: true_time_ns() + {offset_s} * 10**9
"""


def test_upkeep_that_is_killed_in_the_middle_is_taken_over(fleet: Fleet) -> None:
    job = fleet.give(numbered(4 * SHARD_TEXTS), model="null@1000")
    first = fleet.start_worker(fault="upkeep:kill@2")
    assert first.wait(DEADLINE_S) < 0
    assert fleet.strikes()
    with fleet.worker():
        fleet.finish(job)


@pytest.mark.parametrize("offset_s", [3600, pytest.param(-3600, marks=pytest.mark.long)])
def test_leases_do_not_depend_on_a_workers_clock(
    postgres: Database, tmp_path: Path, redis_url: str, offset_s: int
) -> None:
    fleet = Fleet(tmp_path, postgres, redis_url)
    fleet.environment["DOCMILL_LEASE_S"] = str(LEASE_S)  # which a busy machine renews in time
    with fleet.worker("--threads", "1"):
        fleet.patch(CLOCK.format(offset_s=offset_s))
        with fleet.worker("--threads", "1"):
            until(lambda: len(fleet.live()) == 2, "both are ready, and the clock of one is wrong")
            job = fleet.give(numbered(6 * SHARD_TEXTS), model="null@800")
            until(lambda: len(fleet.owners()) == 2, "both hold a shard")
            assert fleet.lapsed() == 0
            longest_s = select(func.max(Shard.lease_until - db_now())).where(Shard.state == "running")
            assert (fleet.database.value(longest_s) or 0.0) <= LEASE_S
            fleet.finish(job)
    shards = fleet.shards(Shard.attempt, Shard.lapses)
    assert {(row.attempt, row.lapses) for row in shards} == {(1, 0)}, "nothing was taken from anybody"
