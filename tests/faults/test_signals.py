"""Workers that are asked to go, told to go, or frozen."""

from __future__ import annotations

import os
import signal

import pytest

from docmill.storage.core.schema import Shard
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.worker.harness import DEADLINE_S, Running, device_pids, kill_group, until

BATCH_TEXTS = 64  # of the model that computes nothing


def ends(process: Running) -> bool:
    """Return True if a worker ends by itself, with exit code 0."""
    try:
        return process.wait(DEADLINE_S) == 0
    finally:
        if process.poll() is None:
            kill_group(process)


def test_a_worker_that_is_asked_to_go_finishes_its_batch_and_gives_the_rest_back(fleet: Fleet) -> None:
    job = fleet.give(numbered(8 * SHARD_TEXTS), model="null@900")
    worker = fleet.start_worker(fault="batch:hang")
    fleet.wait_until_busy()
    worker.send_signal(signal.SIGTERM)
    until(lambda: "draining" in fleet.log("worker"), "it drains")
    fleet.release()
    assert ends(worker)
    assert fleet.states()["running"] == 0
    # A busy machine has cut only a part of the first shard by then, and the batch is that part.
    assert fleet.outcomes()["done"] > 0, "the batch that was on the device is kept"
    given_back = [row.attempt for row in fleet.shards(Shard.state, Shard.attempt) if row.state != "done"]
    assert len(given_back) >= 4
    assert set(given_back) == {0}, "a drain spends no attempt"
    with fleet.worker():
        assert fleet.finish(job).done == 8 * SHARD_TEXTS


@pytest.mark.parametrize("words", [["TERM", "TERM"], ["QUIT"]], ids=" ".join)
def test_a_worker_that_is_told_to_quit_gives_all_shards_back_at_once_with_their_finished_texts(
    fleet: Fleet, words: list[str]
) -> None:
    fleet.give(numbered(3 * SHARD_TEXTS))
    worker = fleet.start_worker(fault="batch:hang@2")
    until(fleet.strikes, "one batch is finished, and the next takes an hour")
    until(lambda: fleet.states()["running"] == 3 - fleet.states()["done"], "every thread has a shard")
    worker.send_signal(signal.Signals[f"SIG{words[0]}"])

    def gone() -> bool:
        # Again and again: two signals of a kind are one to a process that had no time between them.
        worker.send_signal(signal.Signals[f"SIG{words[-1]}"])
        return worker.poll() is not None

    until(gone, "it ends")
    assert worker.returncode == 0
    assert fleet.states()["running"] == 0
    assert {row.attempt for row in fleet.shards(Shard.state, Shard.attempt) if row.state != "done"} == {0}
    assert 0 < fleet.outcomes()["done"] <= BATCH_TEXTS, "what is finished of a shard is kept"
    assert fleet.live() == {}


def test_a_worker_that_was_frozen_past_its_lease_commits_nothing_that_was_taken_from_it(fleet: Fleet) -> None:
    job = fleet.give(numbered(6 * SHARD_TEXTS), model="null@1000")
    first = fleet.start_worker(fault="batch:hang")
    fleet.wait_until_busy()
    frozen = fleet.owners()
    pids = [first.pid, *device_pids(first)]
    fleet.database.write(lambda _: send(pids, signal.SIGSTOP))  # while we write, so that they hold no SQLite file
    held = {row.id for row in fleet.shards(Shard.id, Shard.owner) if row.owner in frozen}
    with fleet.worker():
        until(lambda: not fleet.owners() & frozen, "what it held is taken from it")
        fleet.release()
        send(pids, signal.SIGCONT)
        status = fleet.finish(job)
    assert status.done == 6 * SHARD_TEXTS
    until(lambda: "lease_lost" in fleet.log("worker"), "it was told that its shards are gone")
    first.send_signal(signal.SIGQUIT)
    assert ends(first)
    of_held = [row for row in fleet.shards(Shard.id, Shard.attempt, Shard.fence, Shard.suspect) if row.id in held]
    assert {row.fence for row in of_held} == {3}, "claimed, taken away and claimed again"
    assert {(row.attempt, row.suspect) for row in of_held} == {(1, 0)}, "which spends no attempt, nor blames anybody"


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)
