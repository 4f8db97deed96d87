"""Shards are dispatched by lane, priority and fair share to workers that can serve them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, insert, literal, select, text

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Refusal, Shard, Worker, db_now
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases import dispatch, maintenance, shards
from docmill.storage.leases.dispatch import LEAST_WINDOW, WINDOW_PER_SLOT
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.budgets import Account
from docmill.storage.steps.jobs import OpenJob
from tests.storage.builders import (
    TRANSLATE,
    at_once,
    claim_next,
    claim_shard,
    dispatch_shards,
    done,
    lapse,
    numbered,
    queued,
    read,
    request,
    set_shard,
    shard,
    shards_of,
    sign_on,
    take,
)


def many_shards(
    database: Database,
    corpus: str,
    n: int = 20,
    *,
    priority: int = 0,
    spec: Spec | None = None,
    sharer: str | None = None,
    weight: int = 1,
) -> OpenJob:
    """Read a job of n shards."""
    account = Account(sharer, weight)
    job_request = request(corpus=corpus, priority=priority, spec=spec or Spec("copy", corpus, "r"), account=account)
    texts = [(f"{corpus}{i}", f"{corpus} {i}") for i in range(n)]
    job = read(database, job_request, texts, chunk=1)
    assert len(shards_of(database, job)) == n
    return job


def by_job(database: Database, shard_ids: list[int]) -> Counter[int]:
    """Count shards by their jobs."""
    return Counter(shard(database, shard_id).job_id for shard_id in shard_ids)


def test_the_window_is_twice_the_live_slots_of_a_lane(database: Database) -> None:
    many_shards(database, "a")
    sign_on(database, "silent", slots=9)
    database.execute(text("UPDATE worker SET seen_at = seen_at - 60"))
    sign_on(database, "w1", slots=3)
    sign_on(database, "w2", slots=2)
    sign_on(database, "other", "translate", slots=9)
    assert len(dispatch_shards(database)) == WINDOW_PER_SLOT * 5
    claim_next(database, "w1")
    assert len(dispatch_shards(database)) == 1


def test_returned_shards_are_dispatched_first_and_passed_over_ones_last(database: Database) -> None:
    job = many_shards(database, "a", LEAST_WINDOW + 3)
    ids = [row.id for row in shards_of(database, job)]
    assert dispatch_shards(database) == ids[:LEAST_WINDOW]
    dispatch.put_back(database, ids[:1])
    back, passed, ended = (claim_next(database) for _ in range(3))
    for claim in (passed, ended):
        shards.commit(database, claim, done(claim), None)
    shards.release(database, back)
    # The job passed over this shard, as if every worker had refused its spec.
    unclaimed = {"state": "planned", "fence": 0, "owner": None, "dispatched_at": None, "finished_at": None}
    set_shard(database, passed.shard_id, **unclaimed)

    def dispatch_and_commit() -> list[int]:
        shard_ids = dispatch_shards(database)
        for shard_id in shard_ids:
            claim = claim_shard(database, shard_id)
            shards.commit(database, claim, done(claim), None)
        return shard_ids

    assert dispatch_and_commit() == [*ids[:2], *ids[4:6]]
    assert dispatch_and_commit() == ids[6:]
    assert dispatch_and_commit() == [passed.shard_id]


def test_the_jobs_of_a_sharer_share_its_places_and_a_weight_gives_more(database: Database) -> None:
    first, second = (many_shards(database, name, sharer="alice") for name in "ab")
    of_bob = many_shards(database, "c", sharer="bob", weight=3)
    sign_on(database, "w1", slots=8)
    assert by_job(database, dispatch_shards(database)) == {first.id: 2, second.id: 2, of_bob.id: 12}


def test_a_small_job_beside_a_huge_one_is_next(database: Database) -> None:
    huge = many_shards(database, "a", 40, sharer="alice")
    sign_on(database, "w1", slots=2)
    assert by_job(database, dispatch_shards(database)) == {huge.id: 4}
    small = many_shards(database, "b", 1, sharer="bob")
    claim_next(database)
    [lane] = dispatch.lanes(database)
    ahead, behind = dispatch.take(database, lane)  # none is queued behind the others, although a place is free
    assert (by_job(database, ahead), behind) == ({small.id: 1}, [])


def test_a_job_that_comes_during_a_top_up_is_not_put_behind_what_waits(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_shards(postgres, "a", 40)
    for shard_id in dispatch_shards(postgres)[:2]:
        claim_shard(postgres, shard_id)
    small = many_shards(postgres, "b", 1)
    [lane] = dispatch.lanes(postgres)
    queue, late = dispatch._queue, list[int]()

    def queue_late(*arguments: Any) -> list[int]:
        if not late:
            late.append(many_shards(postgres, "c", 1).id)
        return queue(*arguments)

    monkeypatch.setattr(dispatch, "_queue", queue_late)
    ahead, behind = dispatch.take(postgres, lane)
    assert by_job(postgres, ahead) == {small.id: 1}
    assert late[0] not in by_job(postgres, behind)
    assert by_job(postgres, newcomers(postgres)) == {late[0]: 1}


def test_a_sharer_without_a_shard_in_flight_gets_one_beyond_the_window(database: Database) -> None:
    many_shards(database, "a", 40, sharer="alice")
    [lane] = dispatch.lanes(database)
    ahead, waiting = dispatch.take(database, lane)
    assert ahead == [], "no shard waits that it could go ahead of"
    small, _ = (many_shards(database, name, 3, sharer="bob") for name in "bc")
    of_nobody = many_shards(database, "d", 3)
    lower = many_shards(database, "e", 3, priority=-1)
    ahead = newcomers(database)
    assert [shard(database, shard_id).job_id for shard_id in ahead] == [small.id, of_nobody.id], "as they came"
    assert dispatch_shards(database) == []
    assert {row.state for row in shards_of(database, lower)} == {"planned"}
    # The shards that they overtook are not taken for lost.
    for shard_id in (*waiting, *ahead):
        set_shard(database, shard_id, dispatched_at=Shard.dispatched_at - 60)
    for shard_id in ahead:
        claim_shard(database, shard_id)
    assert maintenance.lost_hints(database, "copy", queue_is_empty=False, grace_s=30) == []


def test_the_first_shard_of_a_job_goes_ahead_of_the_last_shards_of_another(database: Database) -> None:
    many_shards(database, "a", LEAST_WINDOW)
    assert len(dispatch_shards(database)) == LEAST_WINDOW
    assert newcomers(database) == []
    small = many_shards(database, "b", 2)
    assert by_job(database, newcomers(database)) == {small.id: 1}


def test_a_queued_shard_of_a_cancelled_job_holds_no_other_job_back(database: Database) -> None:
    cancelled = many_shards(database, "a", 2, priority=1, sharer="alice")
    left_behind, _ = dispatch_shards(database)
    jobs.cancel(database, cancelled.id)
    set_shard(database, left_behind, state="queued", dispatched_at=db_now())
    many_shards(database, "b", 40, sharer="bob")
    dispatch_shards(database)
    of_carol, of_alice = many_shards(database, "c", 3, sharer="carol"), many_shards(database, "d", 3, sharer="alice")
    assert by_job(database, newcomers(database)) == {of_carol.id: 1, of_alice.id: 1}
    set_shard(database, left_behind, dispatched_at=db_now() - 2 * GRACE_S)
    assert find_lost(database, queue_is_empty=True) == [], "its hint is not sent again"


def test_a_job_of_a_higher_priority_needs_no_place_beyond_the_window(database: Database) -> None:
    many_shards(database, "a", 40)
    dispatch_shards(database)
    for name in "bcde":
        many_shards(database, name, 3)
    assert len(newcomers(database)) == LEAST_WINDOW
    urgent = many_shards(database, "urgent", 3, priority=5)
    assert by_job(database, dispatch_shards(database)) == {urgent.id: 3}


def test_jobs_that_are_dispatched_together_take_turns(database: Database) -> None:
    huge, small = many_shards(database, "a", 40), many_shards(database, "b", 1)
    sign_on(database, "w1", slots=8)
    of_jobs = [shard(database, shard_id).job_id for shard_id in dispatch_shards(database)]
    assert of_jobs[:3] == [huge.id, small.id, huge.id]
    assert len(of_jobs) == 16


def newcomers(database: Database) -> list[int]:
    """Offer shards of all lanes once. Return the ids of the shards that go ahead of the queue."""
    return [shard_id for lane in dispatch.lanes(database) for shard_id in dispatch.take(database, lane)[0]]


def test_one_job_can_be_offered_alone_and_queued_shards_can_be_withdrawn(database: Database) -> None:
    first, second = many_shards(database, "a"), many_shards(database, "b")
    (lane,) = dispatch.lanes(database, only_job=second.id)
    assert set(by_job(database, take(database, lane))) == {second.id}
    sign_on(database, "w1", slots=6)
    assert set(by_job(database, dispatch_shards(database))) == {first.id, second.id}
    held = claim_shard(database, next(row.id for row in shards_of(database, first) if row.state == "queued"))
    offered = queued(database)
    dispatch.withdraw(database, ["translate"])
    assert queued(database) == offered
    dispatch.withdraw(database, ["copy"])
    assert queued(database) == []
    assert shard(database, held.shard_id).state == "running"
    assert {row.state for row in shards_of(database, first)} == {"running", "planned"}
    assert set(by_job(database, take(database, lane))) == {second.id}


def test_a_job_that_is_offered_alone_has_the_window_to_itself(database: Database) -> None:
    """Shards of other jobs may wait in other queues, where this job's priority could not overtake them."""
    first, second = many_shards(database, "a"), many_shards(database, "b", 40, priority=5)
    dispatch.take(database, dispatch.lanes(database, only_job=first.id)[0])
    dispatch.take(database, dispatch.lanes(database, only_job=second.id)[0])
    assert by_job(database, queued(database)) == {first.id: LEAST_WINDOW, second.id: LEAST_WINDOW}
    lost = partial(maintenance.lost_hints, database, "copy", queue_is_empty=True, grace_s=0.0)
    assert by_job(database, lost(only_job=first.id)) == {first.id: LEAST_WINDOW}


def test_queued_shards_make_room_for_a_higher_priority(database: Database) -> None:
    huge = many_shards(database, "huge")
    assert len(dispatch_shards(database)) == LEAST_WINDOW
    urgent = many_shards(database, "urgent", 3, priority=5)
    assert by_job(database, dispatch_shards(database)) == {urgent.id: 3}
    assert by_job(database, queued(database)) == {urgent.id: 3, huge.id: LEAST_WINDOW - 3}
    jobs.prioritize(database, huge.id, 9)
    dispatch_shards(database)
    assert by_job(database, queued(database)) == {huge.id: LEAST_WINDOW}
    assert dispatch_shards(database) == []


def test_a_lane_is_not_held_up_by_another(database: Database) -> None:
    many_shards(database, "a")
    translated = many_shards(database, "b", spec=TRANSLATE)
    assert by_job(database, dispatch_shards(database))[translated.id] == LEAST_WINDOW


def test_two_top_ups_at_once_offer_no_shard_twice(database: Database) -> None:
    many_shards(database, "a", 30)
    sign_on(database, "w1", slots=5)
    taken = [shard_id for ids in at_once(*[lambda: dispatch_shards(database)] * 4) for shard_id in ids]
    assert len(taken) == len(set(taken)) >= WINDOW_PER_SLOT * 5


def test_shards_that_could_not_be_sent_are_put_back_as_they_were(database: Database) -> None:
    job = many_shards(database, "a", 6)
    before = shards_of(database, job)
    taken = dispatch_shards(database)
    dispatch.put_back(database, taken)
    fences = {row.id: row.fence for row in shards_of(database, job)}
    assert fences == {row.id: row.fence + (row.id in taken) for row in before}
    for row in before:
        set_shard(database, row.id, fence=row.fence)
    assert shards_of(database, job) == before
    claim = claim_next(database)
    dispatch.put_back(database, [claim.shard_id])
    assert shard(database, claim.shard_id).state == "running", "a shard that was claimed stays so"


def test_a_spec_that_every_live_worker_refused_is_not_dispatched_and_its_job_is_blocked(database: Database) -> None:
    bad, good = many_shards(database, "a"), many_shards(database, "b")
    sign_on(database, "w1")
    sign_on(database, "w2")
    dispatch.refuse(database, "w1", bad.steps[0].spec_id, "cannot serve it: no weights")
    assert not read_status(database, bad.id).blocked
    offered = dispatch_shards(database)
    assert by_job(database, offered) == {bad.id: 8, good.id: 8}
    dispatch.put_back(database, offered)
    dispatch.refuse(database, "w2", bad.steps[0].spec_id, "cannot serve it: no memory")
    assert by_job(database, dispatch_shards(database)) == {good.id: 16}
    status = read_status(database, bad.id)
    assert status.blocked
    assert status.state == "blocked"
    assert str(status.waiting_for).startswith("blocked: cannot serve it: no memory. Every worker refuses it")
    assert "`docmill cancel` drops it" in str(status.waiting_for)
    assert {row.attempt for row in shards_of(database, bad)} == {0}
    for worker_id in ("w1", "w2"):
        dispatch.sign_off(database, worker_id)
    status = read_status(database, bad.id)
    assert status.no_worker
    assert "the last one refused: cannot serve it: no memory" in str(status.waiting_for)


def test_a_refusal_counts_until_it_expires_or_is_withdrawn(database: Database) -> None:
    job = many_shards(database, "a")
    sign_on(database, "w1")
    dispatch.refuse(database, "w1", job.steps[0].spec_id, "cannot serve it: no weights")
    assert dispatch_shards(database) == []
    database.execute(text("UPDATE refusal SET refused_at = refused_at - 60"))
    dispatch.put_back(database, dispatch_shards(database))
    dispatch.refuse(database, "w1", job.steps[0].spec_id, "cannot serve it: no weights")
    assert dispatch_shards(database) == []
    dispatch.accept(database, "w1", job.steps[0].spec_id)
    assert dispatch_shards(database)
    assert read_status(database, job.id).waiting_for is None


def test_workers_that_have_been_silent_for_long_are_forgotten(database: Database) -> None:
    job = many_shards(database, "a")
    sign_on(database, "w1")
    sign_on(database, "w2")
    for worker_id in ("w1", "w2"):
        dispatch.refuse(database, worker_id, job.steps[0].spec_id, "cannot serve it")
    database.execute(text("UPDATE worker SET seen_at = seen_at - 7200 WHERE id = 'w1'"))
    database.execute(text("UPDATE refusal SET refused_at = refused_at - 7200 WHERE worker_id = 'w1'"))
    assert maintenance.forget_workers(database) == 1
    assert database.values(select(Worker.id)) == database.values(select(Refusal.worker_id)) == ["w2"]


GRACE_S = 30.0


def find_lost(database: Database, *, queue_is_empty: bool) -> list[int]:
    """Return the ids of the shards whose hints are lost, which are sent again."""
    return maintenance.lost_hints(database, "copy", queue_is_empty=queue_is_empty, grace_s=GRACE_S)


def test_a_hint_is_lost_when_its_lane_is_empty_after_the_grace_period(database: Database) -> None:
    many_shards(database, "a")
    shard_ids = dispatch_shards(database)
    assert find_lost(database, queue_is_empty=True) == []
    for shard_id in shard_ids[:2]:
        set_shard(database, shard_id, dispatched_at=db_now() - 2 * GRACE_S)
    assert find_lost(database, queue_is_empty=False) == []
    assert find_lost(database, queue_is_empty=True) == shard_ids[:2]
    assert find_lost(database, queue_is_empty=True) == []  # it was sent again just now
    assert queued(database) == shard_ids
    for shard_id in shard_ids:
        set_shard(database, shard_id, dispatched_at=db_now() + 3_600.0)
    assert find_lost(database, queue_is_empty=True) == shard_ids, "the clock went back"
    assert find_lost(database, queue_is_empty=True) == []


@pytest.mark.parametrize("ends", [False, True])
def test_a_hint_is_lost_when_a_later_one_was_claimed(database: Database, ends: bool) -> None:
    many_shards(database, "a")
    shard_ids = dispatch_shards(database)
    for age, shard_id in zip((100, 90, 80, 70), shard_ids, strict=True):
        set_shard(database, shard_id, dispatched_at=db_now() - age)
    claim = claim_shard(database, shard_ids[2])
    if ends:
        shards.commit(database, claim, done(claim), None)
    assert find_lost(database, queue_is_empty=False) == shard_ids[:2]


def test_upkeep_has_one_holder_at_a_time_and_changes_hands_when_its_lease_lapses(database: Database) -> None:
    assert maintenance.hold(database, "upkeep", "w1", 60)
    assert not maintenance.hold(database, "upkeep", "w2", 60)
    assert maintenance.hold(database, "upkeep", "w1", -1)
    assert maintenance.hold(database, "upkeep", "w2", 60)
    maintenance.let_go(database, "upkeep", "w1")
    assert not maintenance.hold(database, "upkeep", "w1", 60)
    maintenance.let_go(database, "upkeep", "w2")
    assert maintenance.hold(database, "upkeep", "w1", 60)


def test_one_of_many_workers_gets_upkeep(database: Database) -> None:
    are_held = at_once(*[lambda n=n: maintenance.hold(database, "upkeep", f"w{n}", 60) for n in range(8)])
    assert are_held.count(True) == 1


def test_two_rounds_of_reclaiming_at_once_reclaim_each_shard_once(database: Database) -> None:
    many_shards(database, "a", 12)
    sign_on(database, "w1", slots=6)
    claims = [claim_shard(database, shard_id) for shard_id in dispatch_shards(database)]
    for claim in claims:
        lapse(database, claim.shard_id)
    assert sum(at_once(*[lambda: maintenance.reclaim(database)] * 3)) == len(claims)


SMALL, HUGE = 100, 3_000
# The query of the Helm chart's autoscaler.
OPEN = select(literal(1)).select_from(text("open_shards")).where(text("lane IN ('copy')")).limit(64)


def backlog(database: Database, corpus: str, n: int) -> OpenJob:
    """Read a job, and add n planned shards to it."""
    job = read(database, request(corpus=corpus), numbered(3))

    def fill(transaction: Transaction) -> None:
        columns = [column for column in Shard.__table__.columns if column.name != "id"]
        values = transaction.execute(select(*columns).where(Shard.job_id == job.id).limit(1)).one()
        row = {column.name: value for column, value in zip(columns, values, strict=True)}
        transaction.execute(insert(Shard), [row] * n)

    database.write(fill)
    return job


def count_steps(database: Database, act: Callable[[], object]) -> int:
    """Return the thousands of instructions that SQLite's virtual machine runs for an act."""
    counted: list[None] = []

    def count(connection: Any, *_: object) -> None:
        connection.set_progress_handler(lambda: counted.append(None), 1_000)

    event.listen(database.engine, "checkout", count)
    act()
    event.remove(database.engine, "checkout", count)
    return len(counted)


@pytest.mark.parametrize(
    "act",
    [
        lambda database, job: dispatch_shards(database),
        lambda database, job: [claim_shard(database, shard_id) for shard_id in dispatch_shards(database)],
        lambda database, job: maintenance.reclaim(database),
        lambda database, job: maintenance.reclaim(database, "w1"),
        lambda database, job: maintenance.lost_hints(database, "copy", queue_is_empty=False, grace_s=0),
        lambda database, job: jobs.finish(database),
        lambda database, job: jobs.pause(database, job.id),
        lambda database, job: jobs.cancel(database, job.id),
        lambda database, job: database.rows(OPEN),
    ],
    ids=["take", "claim", "reclaim", "reclaim of a process", "lost hints", "finish", "pause", "cancel", "open"],
)
def test_a_huge_backlog_costs_as_much_as_a_small_one(
    sqlite: Database, act: Callable[[Database, OpenJob], object]
) -> None:
    sign_on(sqlite, "w1")
    small = backlog(sqlite, "small", SMALL)
    claim_next(sqlite)
    cost = count_steps(sqlite, lambda: act(sqlite, small))
    jobs.cancel(sqlite, small.id)
    huge = backlog(sqlite, "huge", HUGE)
    claim_next(sqlite)
    assert count_steps(sqlite, lambda: act(sqlite, huge)) <= cost + 4
