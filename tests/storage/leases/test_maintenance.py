"""Leases are extended after an outage of the store."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Lease, db_now
from docmill.storage.leases import maintenance, shards
from tests.storage.builders import claim_next, lapse, numbered, read, read_and_claim, request, shard

LEASE_S = 60.0


def pass_time(database: Database, seconds: float) -> None:
    """Make the last note of a supervisor as old as this."""
    database.execute(update(Lease).where(Lease.name == maintenance.NOTE).values(until=db_now() - seconds))


def reclaim(database: Database) -> int:
    """Run a round of maintenance. Return the number of shards that it reclaimed."""
    return maintenance.reclaim(database, before=maintenance.contact(database, LEASE_S))


@pytest.mark.parametrize("away_s", [LEASE_S / 2 + 1, 100 * LEASE_S])
def test_after_an_outage_of_the_store_each_lease_starts_anew(database: Database, away_s: float) -> None:
    read(database, request(), numbered(3))
    maintenance.contact(database, LEASE_S)
    claim = claim_next(database)
    lapse(database, claim.shard_id)
    pass_time(database, away_s)
    assert reclaim(database) == 0
    row = shard(database, claim.shard_id)
    assert (row.state, row.fence, row.lapses) == ("running", claim.fence, 0)
    [noted] = database.values(select(Lease.until).where(Lease.name == maintenance.NOTE))
    assert row.lease_until == pytest.approx(noted + LEASE_S, abs=0.001)
    lapse(database, claim.shard_id)  # and nobody renewed it
    assert reclaim(database) == 1


def test_the_first_supervisor_lets_each_lease_start_anew_and_a_pause_shorter_than_half_a_lease_does_not(
    database: Database,
) -> None:
    claim = read_and_claim(database, 3)
    lapse(database, claim.shard_id)
    assert reclaim(database) == 0
    lapse(database, claim.shard_id)
    pass_time(database, LEASE_S / 2 - 10)
    assert reclaim(database) == 1


def test_a_delayed_round_reclaims_no_lease_that_lapsed_meanwhile(database: Database) -> None:
    read(database, request(), numbered(3))
    before = maintenance.contact(database, LEASE_S)
    claim = claim_next(database)
    shards.heartbeat(database, claim.owner, lease_s=0.0)  # it ends after the contact
    assert maintenance.reclaim(database, before=before) == 0


def test_a_lease_longer_than_the_grace_is_unchanged(database: Database) -> None:
    claim = read_and_claim(database, 3)
    shards.heartbeat(database, claim.owner, lease_s=1_000.0)
    until = shard(database, claim.shard_id).lease_until
    maintenance.contact(database, LEASE_S)
    assert shard(database, claim.shard_id).lease_until == until
