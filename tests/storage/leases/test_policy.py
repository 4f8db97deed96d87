"""The policy of retries, suspects and fair shares."""

from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.core.specs import Reason, ShardSize
from docmill.storage.leases.policy import (
    MAX_ATTEMPTS,
    MAX_LAPSES,
    VANISHED,
    Claimant,
    GiveUp,
    PlanAgain,
    after_error,
    after_lapse,
    choose_newcomers,
    choose_turns,
)
from docmill.storage.steps.sharding import cut

CLAIMANTS = st.lists(
    st.builds(
        Claimant,
        job_id=st.integers(1, 1_000),
        priority=st.integers(-2, 2),
        in_flight=st.integers(0, 9),
        planned=st.integers(0, 9),
    ),
    max_size=6,
    unique_by=lambda claimant: claimant.job_id,
)
ROOM = st.integers(0, 30)
SIZED = st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 200)), max_size=100)


@given(CLAIMANTS, ROOM)
def test_shares_fill_the_room_by_priority_and_leave_no_job_behind(claimants: list[Claimant], room: int) -> None:
    shares = Counter(choose_turns(claimants, room))
    assert sum(shares.values()) == min(room, sum(claimant.planned for claimant in claimants))
    assert all(shares[claimant.job_id] <= claimant.planned for claimant in claimants)
    for served, rival in product(claimants, claimants):
        n, n_rival = shares[served.job_id], shares[rival.job_id]
        if n and rival.priority > served.priority:
            assert n_rival == rival.planned
        # Max-min: no job can have more without taking from one that has as little (Bertsekas & Gallager, 6.5.2).
        if n and rival.priority == served.priority and n_rival < rival.planned:
            assert served.in_flight + n <= rival.in_flight + n_rival + 1


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(1, 3), ROOM)
def test_sharers_have_places_by_weight_for_any_number_of_jobs(weights: list[int], n_jobs: int, room: int) -> None:
    claimants = [
        Claimant(100 * number + job, 0, 0, room, sharer=f"key {number}", weight=weight)
        for number, weight in enumerate(weights)
        for job in range(n_jobs if number else 1)
    ]
    shares = Counter(choose_turns(claimants, room))
    groups = [sum(n for job_id, n in shares.items() if job_id // 100 == number) for number in range(len(weights))]
    # No place could go to another sharer that would have less for its weight even with that place.
    for n, weight in zip(groups, weights, strict=True):
        for rival_n, rival_weight in zip(groups, weights, strict=True):
            assert n == 0 or (n - 1) / weight <= rival_n / rival_weight


def test_newcomers_get_no_more_shards_than_their_common_budget_pays_for() -> None:
    of_team = [Claimant(job_id, 0, 0, 4, sharer=f"key {job_id}", affords={"team": 2}) for job_id in range(4)]
    of_last = Claimant(4, 0, 0, 4, sharer="key 3", affords={"own": 1})  # another job of a sharer that gets none
    free = Claimant(5, 0, 0, 4)
    assert choose_newcomers([*of_team, of_last, free], 0) == [0, 1, 4, 5]


def test_a_document_survives_the_lapses_of_several_outages_and_then_fails() -> None:
    steps = [after_lapse(n_contents=1, suspect=0, lapses=n) for n in range(1, MAX_LAPSES + 1)]
    assert all(isinstance(step, PlanAgain) for step in steps[:-1])
    assert steps[-1] == GiveUp(VANISHED, Reason.TRANSIENT)
    assert MAX_LAPSES > 2 * 5, "five outages, with two lapses in each"
    delays = [step.delay_s for step in steps if isinstance(step, PlanAgain)]
    assert delays == sorted(delays)
    assert delays[-1] <= 300


def test_errors_back_off_longer_and_longer_up_to_a_minute_and_then_give_up() -> None:
    steps = [after_error(attempt=n, suspect=1, reason="why") for n in range(1, MAX_ATTEMPTS + 1)]
    assert steps[-1] == GiveUp("why", Reason.TRANSIENT)
    delays = [step.delay_s for step in steps[:-1] if isinstance(step, PlanAgain)]
    assert delays == sorted(delays)
    assert len(delays) == MAX_ATTEMPTS - 1
    assert 0 < delays[0] < delays[-1] <= 60
    assert all(step.suspect == 1 for step in steps[:-1] if isinstance(step, PlanAgain))


@given(SIZED, st.integers(1, 20), st.integers(1, 500))
def test_shards_partition_contents_within_bounds(sized: list[tuple[int, int]], contents: int, chars: int) -> None:
    shards = list(cut(sized, ShardSize(contents, chars)))
    assert [content for shard in shards for content in shard] == sized
    for shard in shards:
        assert 0 < len(shard) <= contents
        assert len(shard) == 1 or sum(n_chars for _, n_chars in shard) <= chars
