"""Processes that die at the worst moment: others do their shards, once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.worker.harness import kill_machine, until


def test_shards_of_a_killed_machine_are_claimable_within_a_lease_and_done_by_another(fleet: Fleet) -> None:
    job = fleet.give(numbered(7 * SHARD_TEXTS), model="null@4000")
    with fleet.worker(fault="batch:hang") as first:
        fleet.wait_until_busy()
        [lost] = fleet.live()
        with fleet.worker():
            until(lambda: len(fleet.live()) == 2, "its neighbour is ready")
            fleet.move_to_another_machine()
            kill_machine(first)
            leases = fleet.shards(Shard.owner, Shard.lease_until)
            until(lambda: lost not in fleet.owners(), "what it held is taken from it")
            with fleet.database.read() as transaction:
                now = transaction.read_clock()
            assert all(row.lease_until < now for row in leases if row.owner == lost), "a lease that holds protects"
            assert fleet.finish(job).done == 7 * SHARD_TEXTS


def test_finished_texts_of_a_shard_in_flight_are_not_recomputed(fleet: Fleet) -> None:
    texts = [*numbered(32), *(f"{'Another length. ' * 30}{n}" for n in range(32))]  # at least two batches
    job = fleet.give(texts)
    with fleet.worker(fault="batch:hang@2", lease_s=600):
        until(lambda: fleet.strikes() and fleet.outcomes()["done"], "a batch is stored, and the next one hangs")
        assert fleet.states() == {"running": 1}
        n_done = fleet.outcomes()["done"]
        [device] = fleet.live().values()
        os.kill(device, signal.SIGKILL)
        assert fleet.finish(job).done == len(texts)
    unclaimed = [row.n_contents for row in fleet.shards() if row.state == "done" and row.attempt == 0]
    assert len(unclaimed) == 1
    assert n_done <= unclaimed[0] < len(texts)


@pytest.mark.parametrize("point", ["batch", "committed"])
def test_shards_of_a_dead_device_process_are_free_at_once(fleet: Fleet, point: str) -> None:
    job = fleet.give(numbered(4 * SHARD_TEXTS))
    with fleet.worker(fault=f"{point}:kill", lease_s=600):
        status = fleet.finish(job)
    assert len(fleet.strikes()) == 1
    assert status.done == 4 * SHARD_TEXTS, "nobody is blamed for one death"
    attempts = [row.attempt for row in fleet.shards(Shard.attempt)]
    assert max(attempts) <= 2
    assert point == "batch" or 1 in attempts, "what was committed is not computed again"


def test_shards_in_the_queue_of_a_killed_worker_are_dispatched_again(tmp_path: Path, database: Database) -> None:
    fleet = Fleet(tmp_path, database, None)
    job = fleet.give(numbered(8 * SHARD_TEXTS))
    with fleet.worker(fault="batch:hang") as worker:
        fleet.wait_until_busy()
        worker.kill()
        until(lambda: not fleet.live(), "its device process gives its shards back")
    assert fleet.states()["running"] == 0
    assert fleet.states()["queued"]
    with fleet.worker():
        fleet.finish(job)
    assert "hints_lost" not in fleet.log("worker")


def test_a_hint_that_dies_with_its_process_before_the_claim_is_sent_again_at_once(fleet: Fleet) -> None:
    job = fleet.give(numbered(2 * SHARD_TEXTS))
    with fleet.worker(fault="taken:kill"):
        fleet.finish(job)
    assert len(fleet.strikes()) == 1
    assert {row.attempt for row in fleet.shards(Shard.attempt)} == {1}
