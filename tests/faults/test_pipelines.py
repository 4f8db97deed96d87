"""Jobs of several steps whose workers die in each of them."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from sqlalchemy import select

from docmill.storage.core.schema import Shard
from docmill.storage.results import results
from docmill.storage.results.status import read_status
from docmill.storage.steps.sharding import unpack
from tests.fault_points import MARKER
from tests.faults.fleet import Fleet, numbered
from tests.worker.harness import kill_group, until

STEPS = """
[[step]]
name = "english"
task = "translate"
model = "null@3000"
[[step]]
name = "line"
task = "summarize"
model = "null@3000"
[[step]]
name = "meaning"
task = "embed"
model = "null@3000"
"""
N = 256


def is_held(fleet: Fleet, step: int) -> bool:
    """Return True if the fault holds a batch while the step is computed. Let a batch of the step before go on."""
    if not fleet.strikes():
        return False
    with fleet.database.read() as transaction:
        steps = set(transaction.scalars(select(Shard.step).where(Shard.state == "running")))
    if step not in steps:
        fleet.release()
    return step in steps


@pytest.mark.long
def test_a_pipeline_whose_workers_are_killed_in_each_of_its_steps_loses_and_doubles_nothing(fleet: Fleet) -> None:
    texts = [f"{MARKER} This one has eight words or so.", *numbered(N - 1)]
    job = fleet.give_pipeline(texts, STEPS)
    for step in range(3):
        worker = fleet.start_worker(fault="text:hang")
        until(partial(is_held, fleet, step), f"a batch of step {step} is held")
        kill_group(worker)
        fleet.release()
    with fleet.worker():
        until(lambda: read_status(fleet.database, job).ended, "the job has ended")
    status = read_status(fleet.database, job)
    assert [(step.done, step.failed, step.blocked) for step in status.steps] == [(N, 0, 0)] * 3
    held = Counter(
        (row.step, content_id)
        for row in fleet.shards(Shard.step, Shard.state, Shard.contents)
        if row.state != "split"
        for content_id in unpack(row.contents)
    )
    assert set(held.values()) == {1}, "each text is in one shard of its step"
    found = list(results.results(fleet.database, job))
    assert [one["id"] for one in found] == [str(n) for n in range(N)]
    assert all(one["steps"].keys() == {"english", "line", "meaning"} for one in found)
    assert [one["steps"]["line"]["text"] for one in found] == texts
