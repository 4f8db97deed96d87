"""The claims that a device process holds, and the seconds in which it holds any."""

from __future__ import annotations

from dataclasses import replace

import pytest

from docmill.storage.core.specs import Spec
from docmill.storage.leases.shards import Claim, Head
from docmill.worker.process.in_flight import InFlight, ShardsInFlight


def _claim(shard_id: int, fence: int = 1) -> InFlight:
    head = Head(shard_id, fence - 1, lane="copy", suspect=False, spec_id=1, spec=Spec("copy", "m", "r"))
    claim = Claim(
        shard_id=shard_id, job_id=1, fence=fence, owner="me", attempt=fence, suspect=0, redo=False, spec_id=1,
        contents=(), texts=(),
    )  # fmt: skip
    return InFlight(head, claim)


def test_time_with_a_shard_in_flight_is_counted_once_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("docmill.worker.process.in_flight.time.monotonic", lambda: now[0])
    shards, one, two = ShardsInFlight(), _claim(1), _claim(2)
    shards.enter(one)
    now[0] = 101.0
    shards.enter(two)
    now[0] = 103.0
    shards.leave(one)
    assert shards.worked_s() == (3.0, False)
    now[0] = 104.0
    shards.leave(two)
    now[0] = 200.0
    assert shards.worked_s() == (4.0, True)


def test_a_shard_that_was_lost_and_claimed_again_stays_held_when_the_lost_claim_ends() -> None:
    """Two threads of one process: the first has not yet noticed that its claim is gone."""
    shards, lost = ShardsInFlight(), _claim(1, fence=1)
    again = replace(lost, claim=replace(lost.claim, fence=2))
    shards.enter(lost)
    shards.enter(again)
    shards.leave(lost)
    assert [ours.claim.fence for ours in shards.held()] == [2]
    shards.leave(again)
    assert not shards
