"""Cost limits: no shard begins once the ended shards have cost as much as the limit."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Budget, Shard
from docmill.storage.core.specs import Spec
from docmill.storage.deletion import removal
from docmill.storage.leases import dispatch, maintenance, shards
from docmill.storage.leases.diagnosis import Cause
from docmill.storage.leases.shards import Claim
from docmill.storage.results.counts import count_open_shards
from docmill.storage.results.fleet import read_fleet
from docmill.storage.results.results import results
from docmill.storage.results.status import STATES, list_statuses, read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.budgets import Account
from docmill.storage.steps.jobs import JobRequest, OpenJob
from docmill.storage.steps.propagation import Traversal
from docmill.storage.steps.steps import EscalationRequest, StepRequest
from tests.storage.builders import (
    COPY,
    at_once,
    claim_next,
    claim_shard,
    commit_next,
    dispatch_shards,
    done,
    finish,
    flagged,
    is_lock_awaited,
    look,
    numbered,
    read,
    request,
    run_job,
    set_shard,
    sign_on,
    try_claim,
    work,
)
from tests.worker.harness import until

PRICES = {
    "copier": (1_000_000.0, 500_000.0)
}  # an outcome of `done` costs 4: it has 3 input tokens and 2 output tokens
TEXT_COST = 4.0


def costing(max_cost: float | None, name: str = "a", **more: Any) -> JobRequest:
    """Return a request for a job with prices and a cost limit."""
    return request(f"{name}.jsonl", corpus=name, account=Account(max_cost=max_cost, prices=PRICES, **more))


def read_shards(database: Database, job_request: JobRequest, n: int) -> OpenJob:
    """Read a job of n shards with a text each."""
    return read(database, job_request, [(f"k{i}", f"{job_request.corpus} {i}") for i in range(n)], chunk=1)


def spent(database: Database, name: str) -> float:
    """Return the cost of a budget so far."""
    return database.value(select(Budget.spent).where(Budget.name == name)) or 0.0


def claim_all(database: Database) -> list[Claim]:
    """Dispatch shards, and claim those that may begin."""
    claims = [try_claim(database, shard_id) for shard_id in dispatch_shards(database)]
    return [claim for claim in claims if claim is not None]


def commit_done(database: Database, claims: Iterable[Claim]) -> None:
    """Commit a result for each text of some claims."""
    for claim in claims:
        shards.commit(database, claim, done(claim), None)


def queue_all(database: Database, job: OpenJob) -> list[int]:
    """Put all shards of a job into the queue, as if their costs were still unknown."""
    ids = database.values(select(Shard.id).where(Shard.job_id == job.id))
    for shard_id in ids:
        set_shard(database, shard_id, state="queued", dispatched_at=1.0)
    return sorted(ids)


def commit_all(database: Database, shard_ids: Iterable[int]) -> int:
    """Claim and commit each shard that may begin. Return their number."""
    n = 0
    for shard_id in shard_ids:
        if (claim := try_claim(database, shard_id)) is not None:
            commit_done(database, [claim])
            n += 1
    return n


def test_no_shard_begins_once_the_limit_is_reached_and_running_shards_end(database: Database) -> None:
    job = read_shards(database, costing(2 * TEXT_COST), 9)
    waiting = queue_all(database, job)
    claims = [claim_shard(database, shard_id) for shard_id in waiting[:4]]
    early = look(database, waiting[4])
    for claim in claims[:2]:
        assert read_status(database, job.id).waiting_cause is not Cause.COST
        commit_done(database, [claim])
    assert spent(database, "job 1") == 2 * TEXT_COST
    assert not early.at_limit
    assert shards.claim(database, early, "w1") is None  # the limit was reached after the look
    assert look(database, waiting[5]).at_limit
    dispatch.put_back(database, waiting[4:])
    assert dispatch_shards(database) == []

    assert {*shards.heartbeat(database, "w1")} == {*waiting[2:4]}  # their leases are renewed
    with database.read() as transaction:  # no worker is started for the others
        assert [(row.state, row.n) for row in count_open_shards(transaction)] == [("running", 2)]
        assert transaction.execute(text("SELECT state FROM open_shards")).scalars().all() == ["running"] * 2
    commit_done(database, claims[2:])
    status = read_status(database, job.id)
    assert (spent(database, "job 1"), status.done, status.pending) == (4 * TEXT_COST, 4, 5)
    assert (status.state, status.waiting_cause) == ("paused", Cause.COST)
    assert status.waiting_for == "it has reached its cost limit: 16 of 8; `docmill resume 1 --max-cost N` raises it"
    assert [job.id for job in list_statuses(database, wanted=STATES["paused"])] == [job.id]
    assert list_statuses(database, wanted=STATES["open"]) == []
    assert read_fleet(database, ["copy"]).jobs == {"paused": 1}

    # It stays paused when it is resumed, and goes on under a higher limit.
    jobs.resume(database, job.id)
    assert read_status(database, job.id).waiting_cause is Cause.COST
    jobs.resume(database, job.id, Account(max_cost=6 * TEXT_COST))
    assert work(database) == 2
    assert read_status(database, job.id).waiting_cause is Cause.COST
    # The same command with a higher limit continues it, too.
    read_shards(database, costing(100 * TEXT_COST), 9)
    finish(database)
    assert (read_status(database, job.id).state, spent(database, "job 1")) == ("done", 9 * TEXT_COST)


def test_concurrent_shards_are_all_counted_and_none_begins_at_the_limit(database: Database) -> None:
    n_shards, n_threads, paid = 60, 6, 30
    job = read_shards(database, costing(paid * TEXT_COST), n_shards)
    waiting = queue_all(database, job)
    n_begun = sum(at_once(*[partial(commit_all, database, waiting[n::n_threads]) for n in range(n_threads)]))
    assert paid <= n_begun < paid + n_threads
    assert spent(database, "job 1") == n_begun * TEXT_COST


def test_jobs_of_one_budget_or_one_sharer_have_a_common_limit(database: Database) -> None:
    first, second = (
        read_shards(database, costing(3 * TEXT_COST, name, sharer="key k", budget="batch b"), 2) for name in "ab"
    )
    third = read_shards(database, costing(None, "c", sharer="key k"), 5)
    database.execute(insert(Budget).values(name="key k", max_cost=5 * TEXT_COST))
    for job, n in ((first, 2), (second, 1), (third, 2)):
        assert commit_all(database, queue_all(database, job)) == n
    assert (spent(database, "batch b"), spent(database, "key k")) == (3 * TEXT_COST, 5 * TEXT_COST)
    reasons = [read_status(database, job.id).waiting_for or "" for job in (first, second, third)]
    assert "by all jobs of batch b; `docmill resume 2 --max-cost N` raises it" in reasons[1]
    assert "by all jobs of key k; raise that one" in reasons[2]
    database.execute(update(Budget).where(Budget.name == "key k").values(max_cost=100.0))
    assert look(database, queue_all(database, second)[-1]).at_limit
    dispatch.withdraw(database, ["copy"])
    finish(database)
    assert read_status(database, third.id).state == "done"
    assert read_status(database, second.id).waiting_cause is Cause.COST


def test_the_cost_so_far_counts_when_a_job_gets_a_limit(database: Database) -> None:
    job = read_shards(database, request(corpus="a", source="a.jsonl"), 6)
    sign_on(database, "w1", slots=1)
    for _ in range(2):
        commit_next(database)
    dispatch.withdraw(database, ["copy"])
    jobs.resume(database, job.id, Account(max_cost=4 * TEXT_COST, prices=PRICES))
    assert spent(database, "job 1") == 2 * TEXT_COST
    [ended] = database.rows(select(Budget.n_shards, Budget.ended_cost))
    assert tuple(ended) == (2, 2 * TEXT_COST)
    assert work(database) == 2
    assert read_status(database, job.id).waiting_cause is Cause.COST


def test_a_shard_that_ends_while_a_limit_is_set_counts(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    job = read_shards(postgres, request(corpus="a", source="a.jsonl"), 2)
    claim = claim_next(postgres)
    limit = Account(max_cost=4 * TEXT_COST, prices=PRICES)

    def price_of(*args: Any) -> Any:
        """Read the price, then let the job get its limit, as far as it may."""
        price = read_price(*args)
        limited.append(pool.submit(jobs.resume, postgres, job.id, limit))
        until(lambda: limited[0].done() or is_lock_awaited(postgres), "the limit is set, or waits for the shard")
        return price

    read_price, limited = Traversal.price_of, list[Future[bool]]()
    monkeypatch.setattr(Traversal, "price_of", price_of)
    with ThreadPoolExecutor(1) as pool:
        shards.commit(postgres, claim, done(claim), None)
        assert limited[0].result(60)
    assert spent(postgres, "job 1") == TEXT_COST


def test_an_outcome_is_counted_once_however_its_shard_ends(database: Database) -> None:
    job = read(database, costing(1_000.0), numbered(6))
    claim = claim_next(database)
    shards.release(database, claim, done(claim)[:2])
    assert spent(database, "job 1") == 2 * TEXT_COST
    claim = claim_next(database)
    for n_kept in (1, 1, 2):  # the answer to the first write was lost
        shards.keep(database, [(claim, done(claim)[:n_kept], None, ())])
    jobs.pause(database, job.id)
    jobs.resume(database, job.id)
    claim = claim_next(database)
    shards.keep(database, [(claim, done(claim)[:1], None, ())])
    maintenance.reclaim(database, "w1")
    assert spent(database, "job 1") == 5 * TEXT_COST
    while read_status(database, job.id).pending:
        claim = claim_next(database)
        for _ in range(2):
            shards.commit(database, claim, done(claim), None)
    assert spent(database, "job 1") == 6 * TEXT_COST
    assert read_status(database, job.id).tokens_in == 6 * 3


def test_near_its_limit_a_job_has_no_more_in_flight_than_its_budget_covers(database: Database) -> None:
    read_shards(database, costing(10 * TEXT_COST), 40)
    sign_on(database, "w1", slots=4)
    in_flight = []
    while claims := claim_all(database):
        in_flight.append(len(claims))
        commit_done(database, claims)
    assert in_flight == [1, 8, 1]  # the window has eight; the first shard shows the cost of one
    assert spent(database, "job 1") == 10 * TEXT_COST


def test_kept_outcomes_do_not_change_the_expected_cost_of_a_shard(database: Database) -> None:
    job = read_shards(database, costing(20 * TEXT_COST, budget="both"), 40)
    sign_on(database, "w1", slots=4)
    in_flight = []
    for _ in range(3):
        claims = claim_all(database)
        in_flight.append(len(claims))
        shards.keep(database, [(claim, done(claim), None, ()) for claim in claims])
        commit_done(database, claims[:1])
    assert in_flight == [1, 8, 8]  # a full window from the second time on
    jobs.pause(database, job.id)
    assert spent(database, "both") == 17 * TEXT_COST
    read_shards(database, costing(20 * TEXT_COST, "b", budget="both"), 40)
    assert len(claim_all(database)) == 3


def test_a_common_limit_bounds_the_shards_in_flight_of_its_jobs_and_no_others(database: Database) -> None:
    for name in "ab":
        read_shards(database, costing(6 * TEXT_COST, name, budget="both"), 10)
    free = read_shards(database, request(corpus="c", source="c", spec=Spec("copy", "free", "1")), 10)
    sign_on(database, "w1", slots=20)
    n_claims = []
    for _ in range(3):
        claims = claim_all(database)
        n_claims.append((sum(claim.job_id != free.id for claim in claims), len(claims)))
        commit_done(database, claims)
    assert n_claims == [(1, 11), (5, 5), (0, 0)]


@pytest.mark.parametrize("price", [0.1, 0.7, 1 / 3])
def test_a_limit_that_is_a_sum_of_costs_is_reached_exactly(database: Database, price: float) -> None:
    prices = {"copier": (price * 1_000_000 / 3, 0.0)}
    job_request = request(account=Account(max_cost=20 * price, prices=prices))
    job = read_shards(database, job_request, 30)
    assert commit_all(database, queue_all(database, job)) == 20


def test_a_job_without_a_price_shares_the_workers_in_full_whatever_its_budget(database: Database) -> None:
    """The first shard of a budget runs alone to show its cost; shards without a price would never show one."""
    account = Account(sharer="key k", max_cost=TEXT_COST, budget="batch b", prices={})
    read_shards(database, request("a.jsonl", corpus="a", account=account), 9)
    assert len(dispatch_shards(database)) == dispatch.LEAST_WINDOW


def test_an_escalation_costs_the_price_of_its_own_model(database: Database) -> None:
    better = Spec("copy", "better", "sha256:9")
    prices = {"better": (0.0, 500_000.0)}  # the first model costs nothing
    step = StepRequest("copy", COPY, escalation=EscalationRequest(better))
    job = read(database, request(steps=(step,), account=Account(max_cost=100.0, prices=prices)), [("k", "text")])
    commit_next(database, flagged)
    assert spent(database, f"job {job.id}") == 0.0
    commit_next(database)
    assert spent(database, f"job {job.id}") == 1.0  # for 2 output tokens


def test_the_results_of_several_steps_with_prices_are_read(database: Database) -> None:
    steps = (StepRequest("copy", COPY), StepRequest("again", Spec("copy", "other", "1"), input="copy"))
    run_job(database, replace(costing(100.0), steps=steps), [("k", "text")])
    assert [[*result["steps"]] for result in results(database, 1)] == [["copy", "again"]]


def test_a_limit_that_is_never_reached_changes_nothing(database: Database) -> None:
    account = Account(max_cost=1e308, prices={"copier": (1e-9, 0.0)})
    read_shards(database, request("a.jsonl", corpus="a", account=account), 3)
    assert work(database) == 3


def test_the_budget_of_several_jobs_is_removed_with_the_last_of_them(database: Database) -> None:
    for name in "ab":
        read_shards(database, costing(100.0, name=name, budget="batch b"), 1)
    finish(database)
    removal.remove_corpus(database, "a")
    assert spent(database, "batch b") == 2 * TEXT_COST
    removal.remove_corpus(database, "b")
    assert database.values(select(Budget.name)) == []
