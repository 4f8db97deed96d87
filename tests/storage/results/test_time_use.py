"""The use of time by the workers of a job."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from docmill.storage.core.database import Database
from docmill.storage.leases import shards
from docmill.storage.results.status import read_status
from docmill.storage.results.time_use import TimeUse, time_use
from tests.storage.builders import claim_next, done, numbered, read, request
from tests.storage.leases.test_dispatch import sign_on

SECONDS = {"reading": 1.0, "cutting": 1.0, "computing": 7.0, "writing": 1.0, "working": 10.0, "device": 9.0}


def test_the_shares_are_those_of_all_workers() -> None:
    assert time_use([SECONDS, SECONDS]) == TimeUse(0.9, 0.1, 0.1, 0.7, 0.1)
    other = SECONDS | {"computing": 17.0}
    use = time_use([SECONDS, other])
    assert use is not None
    assert astuple(use) == pytest.approx((0.9, 2 / 30, 2 / 30, 24 / 30, 2 / 30), abs=1e-4)


def test_without_work_nothing_is_said() -> None:
    assert time_use([]) is None
    assert time_use([dict.fromkeys(SECONDS, 0.0)]) is None


def test_the_status_has_the_use_of_the_workers_that_hold_the_job(database: Database) -> None:
    job = read(database, request(), numbered(3))
    sign_on(database, "w1")
    sign_on(database, "w2")
    claim = claim_next(database, owner="w1")
    assert read_status(database, job.id).time_use is None
    shards.heartbeat(database, "w1", computed={job.id: 0.0}, time_use=SECONDS)
    shards.heartbeat(database, "w2", computed={}, time_use=SECONDS | {"writing": 90.0})
    assert read_status(database, job.id).time_use == TimeUse(0.9, 0.1, 0.1, 0.7, 0.1)
    shards.commit(database, claim, done(claim), None)
    shards.heartbeat(database, "w1", computed={}, time_use=SECONDS)
    assert read_status(database, job.id).time_use is None
