"""Workers that are asked to go, told to go, or frozen."""

from __future__ import annotations

import os
import signal
import time

import pytest

from storage.schema import Shard
from tests.faults.mill import SHARD_TEXTS, Mill, numbered
from tests.worker.harness import Running, device_pids, kill_group, until

DRAIN_S = 30.0  # what a service manager may count on
AT_ONCE_S = 15.0
BATCH_TEXTS = 64  # of the model that computes nothing


def ended(process: Running, within_s: float) -> float:
    """The seconds until a worker ends by itself, with exit code 0."""
    began = time.monotonic()
    try:
        assert process.wait(within_s) == 0
    finally:
        if process.poll() is None:
            kill_group(process)
    return time.monotonic() - began


def test_a_worker_that_is_asked_to_go_finishes_its_batch_and_gives_the_rest_back(mill: Mill) -> None:
    job = mill.give(numbered(8 * SHARD_TEXTS), model="null@900")
    worker = mill.start_worker()
    until(lambda: mill.states()["running"] == 3, "every thread has a shard")
    worker.send_signal(signal.SIGTERM)
    assert ended(worker, DRAIN_S) < DRAIN_S
    assert mill.states()["running"] == 0
    # A busy machine has cut only a part of the first shard by then, and the batch is that part.
    assert mill.outcomes()["done"] > 0, "the batch that was on the device is kept"
    given_back = [row.attempt for row in mill.shards(Shard.state, Shard.attempt) if row.state != "done"]
    assert len(given_back) >= 4
    assert set(given_back) == {0}, "a drain spends no attempt"
    with mill.worker():
        assert mill.finish(job).done == 8 * SHARD_TEXTS


@pytest.mark.parametrize("words", [["TERM", "TERM"], ["TERM", "INT"], ["QUIT"]], ids=" ".join)
def test_a_worker_that_is_told_to_go_gives_everything_back_at_once_with_what_is_finished(
    mill: Mill, words: list[str]
) -> None:
    mill.give(numbered(3 * SHARD_TEXTS))
    worker = mill.start_worker(fault="batch:hang@2")
    until(mill.strikes, "one batch is finished, and the next takes an hour")
    until(lambda: mill.states()["running"] == 3 - mill.states()["done"], "every thread has a shard")
    worker.send_signal(signal.Signals[f"SIG{words[0]}"])

    def gone() -> bool:
        # Again and again: two signals of a kind are one to a process that had no time between them.
        worker.send_signal(signal.Signals[f"SIG{words[-1]}"])
        return worker.poll() is not None

    until(gone, "it ends", AT_ONCE_S)
    assert worker.returncode == 0
    assert mill.states()["running"] == 0
    assert {row.attempt for row in mill.shards(Shard.state, Shard.attempt) if row.state != "done"} == {0}
    assert 0 < mill.outcomes()["done"] <= BATCH_TEXTS, "what is finished of a shard is kept"
    assert mill.live() == {}


def test_a_worker_that_was_frozen_past_its_lease_commits_nothing_that_was_taken_from_it(mill: Mill) -> None:
    job = mill.give(numbered(6 * SHARD_TEXTS), model="null@1000")
    first = mill.start_worker()
    until(lambda: mill.states()["running"] == 3, "every thread has a shard")
    frozen = mill.owners()
    pids = [first.pid, *device_pids(first)]
    mill.database.write(lambda _: send(pids, signal.SIGSTOP))  # while we write, so that they hold no SQLite file
    held = {row.id for row in mill.shards(Shard.id, Shard.owner) if row.owner in frozen}
    with mill.worker():
        until(lambda: not mill.owners() & frozen, "what it held is taken from it")
        send(pids, signal.SIGCONT)
        status = mill.finish(job)
    assert status.done == 6 * SHARD_TEXTS
    until(lambda: "lease_lost" in mill.log("worker"), "it was told that its shards are gone")
    first.send_signal(signal.SIGQUIT)
    ended(first, AT_ONCE_S)
    of_held = [row for row in mill.shards(Shard.id, Shard.attempt, Shard.fence, Shard.suspect) if row.id in held]
    assert {row.fence for row in of_held} == {3}, "claimed, taken away and claimed again"
    assert {(row.attempt, row.suspect) for row in of_held} == {(1, 0)}, "which spends no attempt, nor blames anybody"


def test_a_worker_that_was_frozen_past_its_lease_commits_what_nobody_took(mill: Mill) -> None:
    job = mill.give(numbered(3 * SHARD_TEXTS), model="null@1000")
    with mill.worker(lease_s=1, upkeep_s=600) as worker:
        until(lambda: mill.states()["running"] == 3, "every thread has a shard")
        pids = device_pids(worker)
        mill.database.write(lambda _: send(pids, signal.SIGSTOP))
        until(lambda: mill.lapsed() == 3, "their leases lapsed")
        send(pids, signal.SIGCONT)
        mill.finish(job)
    assert {(row.attempt, row.fence) for row in mill.shards(Shard.attempt, Shard.fence)} == {(1, 1)}
    assert "lease_lost" not in mill.log("worker")


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)
