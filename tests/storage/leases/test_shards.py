"""The life of a shard: claim, lease, commit, release, reclaim and split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from threading import Event

import pytest
from sqlalchemy import delete, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow, db_now
from docmill.storage.core.specs import TRUNCATED, Outcome, Reason, Status
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import JobStopped, LeaseLost, NotFound
from docmill.storage.leases import maintenance, shards
from docmill.storage.leases.diagnosis import Cause
from docmill.storage.leases.policy import LAPSES_TOGETHER, MAX_ATTEMPTS, MAX_LAPSES, POISON, VANISHED
from docmill.storage.leases.shards import Claim
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.sharding import unpack
from tests.kinds import KINDS
from tests.storage.builders import (
    EMBED,
    assert_status,
    at_once,
    claim_next,
    claim_shard,
    commit_next,
    dispatch_shards,
    done,
    failed,
    finish,
    flagged,
    is_lock_awaited,
    lapse,
    look,
    numbered,
    outcomes,
    queued,
    read,
    read_and_claim,
    request,
    run_job,
    set_shard,
    shard,
    shards_of,
    sign_on,
    try_claim,
    work,
)
from tests.worker.harness import DEADLINE_S, until


def assert_taken_away(database: Database, claim: Claim) -> None:
    """Assert that a claim can no longer be committed."""
    with pytest.raises(LeaseLost):
        shards.commit(database, claim, done(claim, "late"), None)


def test_one_of_many_threads_gets_a_claim(database: Database) -> None:
    read(database, request(), numbered(3))
    [shard_id] = dispatch_shards(database)
    claims = at_once(*[lambda n=n: try_claim(database, shard_id, f"w{n}") for n in range(8)])
    [claim] = [claim for claim in claims if claim is not None]
    assert [text for _, text in claim.texts] == ["text 0", "text 1", "text 2"]
    assert (claim.fence, claim.attempt) == (1, 1)
    assert shard(database, shard_id).owner == claim.owner


def test_a_commit_under_the_fence_writes_the_outcomes_and_ends_the_shard(database: Database) -> None:
    claim = read_and_claim(database, 3)
    runtime = {"device": "cpu", "precision": "float32", "backend": "stub", "versions": {}}
    # The second commit is that of a worker whose connection broke during COMMIT: `done` keeps fence and owner.
    for _ in range(2):
        shards.commit(database, claim, done(claim), runtime)
        row = shard(database, claim.shard_id)
        assert (row.state, row.n_done, row.tokens_in, row.tokens_out) == ("done", 3, 9, 6)
    assert jobs.finish(database) == [claim.job_id]
    assert [result["text"] for result in results(database, claim.job_id)] == ["out"] * 3


def test_a_commit_after_a_reclaim_is_rejected_and_writes_nothing(database: Database) -> None:
    read(database, request(), numbered(2))
    late = claim_next(database, "sleeper")
    lapse(database, late.shard_id)
    assert maintenance.reclaim(database) == 1
    assert_taken_away(database, late)
    assert outcomes(database) == {}
    current = claim_next(database, "other")
    assert_taken_away(database, late)
    shards.commit(database, current, done(current), None)
    assert_taken_away(database, late)


def test_a_commit_after_a_lapse_is_accepted_if_nobody_reclaimed_the_shard(database: Database) -> None:
    claim = read_and_claim(database, 2)
    lapse(database, claim.shard_id)
    shards.commit(database, claim, done(claim), None)
    assert maintenance.reclaim(database) == 0
    assert set(outcomes(database).values()) == {"done"}


def test_a_claim_whose_answer_was_lost_succeeds_on_the_second_try(database: Database) -> None:
    read(database, request(), numbered(2))
    [shard_id] = dispatch_shards(database)
    head = look(database, shard_id)
    tries: list[Claim | None] = []
    write = database.write

    def lose_the_answer(work):  # type: ignore[no-untyped-def]
        tries.append(write(work))
        return write(work)

    database.write = lose_the_answer  # type: ignore[method-assign]
    assert shards.claim(database, head, "w1") == tries[0]
    del database.write
    assert shards.claim(database, head, "w1") is None  # another thread of the same process with the same hint
    assert shard(database, shard_id).fence == 1


def test_a_claim_with_an_outdated_fence_fails(database: Database) -> None:
    read(database, request(), numbered(2))
    [shard_id] = dispatch_shards(database)
    stale = look(database, shard_id)
    shards.release(database, claim_next(database))
    assert dispatch_shards(database) == [shard_id]
    assert shards.claim(database, stale, "w2") is None


def test_a_heartbeat_renews_the_leases_of_its_process_and_no_others(database: Database) -> None:
    read(database, request(), numbered(600))
    mine, lost, of_another = claim_next(database, "w1"), claim_next(database, "w1"), claim_next(database, "w2")
    for claim in (mine, lost, of_another):
        lapse(database, claim.shard_id)
    assert shards.heartbeat(database, "w1", only=[mine.shard_id]) == {mine.shard_id: mine.fence}
    assert maintenance.reclaim(database) == 2
    assert shard(database, mine.shard_id).state == "running"
    assert shards.heartbeat(database, "w1") == {mine.shard_id: mine.fence}


def test_a_release_keeps_finished_results_and_spends_no_attempt(database: Database) -> None:
    claim = read_and_claim(database, 3)
    shards.release(database, claim, done(claim)[:2])
    row = shard(database, claim.shard_id)
    assert (row.state, row.attempt, row.suspect, row.owner) == ("planned", 0, 0, None)
    status = read_status(database, claim.job_id)
    assert (status.done, status.pending, status.texts) == (2, 1, 3), "counts follow what is finished at once"
    assert (status.tokens_in, status.shards) == (6, {"done": 1, "planned": 1})
    again = claim_next(database, "w2")
    assert [text for _, text in again.texts] == ["text 2"]
    assert again.attempt == 1
    shards.commit(database, again, done(again), None)
    assert_status(database, claim.job_id, done=3, pending=0, tokens_in=9)


def test_a_release_of_a_retried_shard_keeps_the_failures_that_were_not_tried_again(database: Database) -> None:
    job = run_job(database, request(), numbered(3), failed)
    jobs.retry(database, job.id)
    claim = claim_next(database)
    shards.release(database, claim, done(claim)[:1])
    assert_status(database, job.id, done=1, failed=0, pending=2)
    again = claim_next(database)
    assert (again.redo, len(again.texts)) == (True, 2)
    shards.commit(database, again, done(again), None)
    jobs.finish(database)
    assert_status(database, job.id, done=3, failed=0, state="done")


def test_the_shards_of_a_process_that_was_stopped_on_purpose_are_no_suspects(database: Database) -> None:
    read(database, request(), numbered(300))
    stopped, of_another = claim_next(database, "w1"), claim_next(database, "w2")
    assert maintenance.release_owner(database, "w1") == 1
    row = shard(database, stopped.shard_id)
    assert (row.state, row.suspect, row.attempt, row.fence) == ("planned", 0, 0, stopped.fence + 1)
    assert shard(database, of_another.shard_id).state == "running"
    assert_taken_away(database, stopped)


def test_a_release_and_a_failure_that_come_too_late_change_nothing(database: Database) -> None:
    late = read_and_claim(database, 2)
    lapse(database, late.shard_id)
    maintenance.reclaim(database)
    for change in (lambda: None, lambda: claim_next(database, "w2")):  # the shard is free, then another has it
        change()
        before = shard(database, late.shard_id)
        shards.release(database, late, done(late))
        maintenance.failed_attempt(database, late, "too late")
        assert shard(database, late.shard_id) == before
    assert outcomes(database) == {}


@pytest.mark.parametrize("act", [jobs.pause, jobs.cancel])
def test_a_pause_and_a_cancel_end_claims(database: Database, act: Callable[[Database, int], bool]) -> None:
    job = read(database, request(), numbered(300))
    running, waiting = claim_next(database), queued(database)[0]
    head = look(database, waiting)
    assert act(database, job.id)
    assert_taken_away(database, running)
    assert shards.claim(database, head, "w2") is None
    assert shards.look(database, waiting) is None
    assert dispatch_shards(database) == []
    assert {(row.state, row.attempt) for row in shards_of(database, job)} == {("planned", 0)}
    assert shards.heartbeat(database, "w1") == {}
    assert jobs.finish(database) == []


def test_a_paused_job_stands_still_until_it_is_resumed(database: Database) -> None:
    job = read(database, request(), numbered(300))
    assert jobs.pause(database, job.id)
    assert jobs.pause(database, job.id)
    assert_status(database, job.id, state="paused", ended=False, pending=300)
    assert jobs.resume(database, job.id)
    assert read_status(database, job.id).state == "running"
    work(database)
    assert jobs.finish(database) == [job.id]
    assert not jobs.pause(database, job.id)
    assert not jobs.resume(database, job.id)


def test_truncated_outputs_are_counted_and_so_are_earlier_ones(database: Database) -> None:
    claim = read_and_claim(database, 3)
    shards.release(database, claim, [replace(done(claim)[0], flags=(TRUNCATED,))])
    again = claim_next(database)
    shards.commit(database, again, [replace(outcome, flags=("windowed",)) for outcome in done(again)], None)
    jobs.finish(database)
    assert (read_status(database, claim.job_id).done, read_status(database, claim.job_id).truncated) == (3, 1)
    later = read(database, request(), numbered(4))
    assert read_status(database, later.id).truncated == 1


def test_a_cancelled_job_stays_cancelled_and_a_shard_that_is_queued_meanwhile_is_not_claimed(
    database: Database,
) -> None:
    job = read(database, request(), numbered(2))
    head = look(database, dispatch_shards(database)[0])
    assert jobs.cancel(database, job.id)
    assert not jobs.cancel(database, job.id)
    assert read_status(database, job.id).state == "cancelled"
    with pytest.raises(JobStopped, match="cancelled"):
        jobs.retry(database, job.id)
    set_shard(database, head.shard_id, state="queued", fence=head.fence)  # as a top-up under way leaves it
    assert shards.claim(database, head, "w1") is None
    assert shards.look(database, head.shard_id) is None


def test_a_claim_that_slips_past_a_cancel_is_not_renewed_and_cannot_commit(database: Database) -> None:
    claim = read_and_claim(database, 2)
    jobs.cancel(database, claim.job_id)
    set_shard(database, claim.shard_id, state="running", fence=claim.fence, owner="w1")
    assert shards.heartbeat(database, "w1") == {}
    assert_taken_away(database, claim)


def test_a_pause_takes_away_a_shard_that_is_just_being_claimed(postgres: Database, postgres_url: str) -> None:
    # SQLite lets only one of them write at a time.
    database, pausing = postgres, Database(postgres_url, kinds=KINDS)
    job = read(database, request(), numbered(2))
    [shard_id] = dispatch_shards(database)
    write, is_taken = database.write, Event()

    def take_and_wait(act):  # type: ignore[no-untyped-def]
        def work(transaction: Transaction):  # type: ignore[no-untyped-def]
            claim = act(transaction)
            is_taken.set()
            until(lambda: is_lock_awaited(pausing), "the pause waits for the claim")
            return claim

        return write(work)

    def pause() -> bool:
        assert is_taken.wait(DEADLINE_S)
        return jobs.pause(pausing, job.id)

    database.write = take_and_wait  # type: ignore[method-assign]
    _, paused = at_once(lambda: claim_shard(database, shard_id), pause)
    del database.write
    assert paused
    row = shard(database, shard_id)
    assert (row.state, row.fence, row.attempt, row.owner) == ("planned", 2, 0, None)
    pausing.close()


@pytest.mark.parametrize("act", [jobs.cancel, jobs.retry, jobs.require, read_status])
def test_an_unknown_job_is_named_in_the_error(database: Database, act) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NotFound, match="there is no job 77"):
        act(database, 77)


def die(database: Database, claim: Claim) -> None:
    """Let the process that holds the claim die: its supervisor takes its shards away at once."""
    assert maintenance.reclaim(database, claim.owner) >= 1


def test_a_lapsed_lease_makes_no_suspects_and_spends_no_attempt(database: Database) -> None:
    read(database, request(), numbered(300))
    first, second = claim_next(database), claim_next(database)
    for claim in (first, second):
        lapse(database, claim.shard_id)
    assert maintenance.reclaim(database) == 2
    for claim in (first, second):
        row = shard(database, claim.shard_id)
        assert (row.state, row.suspect, row.lapses, row.attempt) == ("planned", 0, 1, 0)
        assert row.fence == claim.fence + 1
    assert {first.shard_id, second.shard_id} <= {*dispatch_shards(database)}, "they can be claimed at once"


def vanish(database: Database, claim: Claim) -> None:
    """Let the machine that holds the claim go down, so that its lease lapses. Skip the wait that follows."""
    lapse(database, claim.shard_id)
    assert maintenance.reclaim(database) == 1
    set_shard(database, claim.shard_id, not_before=0.0)


@pytest.mark.parametrize(
    ("dies", "n_together", "then", "reason"),
    [
        # It dies once among others, then among sixteen, and twice alone.
        (die, 1, [16, 1, 1], {"class": "document", "reason": POISON}),
        (
            vanish,
            LAPSES_TOGETHER,
            [16] + [1] * (MAX_LAPSES - LAPSES_TOGETHER - 1),
            {"class": "transient", "reason": VANISHED},
        ),
    ],
)
def test_poison_alone_fails_and_its_neighbours_finish(
    database: Database,
    dies: Callable[[Database, Claim], None],
    n_together: int,
    then: list[int],
    reason: dict[str, str],
) -> None:
    job = read(database, request(), [(key, "poison" if key == "k77" else text) for key, text in numbered(256)])
    deaths: list[int] = []
    while shard_ids := dispatch_shards(database):
        for shard_id in shard_ids:
            head, claim = look(database, shard_id), claim_shard(database, shard_id)
            if any(text == "poison" for _, text in claim.texts):
                assert head.alone == (len(deaths) >= n_together), "it runs alone from then on"
                deaths.append(len(claim.texts))
                dies(database, claim)
            else:
                shards.commit(database, claim, done(claim), None)
    assert deaths == [256] * n_together + then
    assert jobs.finish(database) == [job.id]
    assert_status(database, job.id, done=255, failed=1, pending=0, texts=256)
    assert list(failures(database, job.id)) == [{"id": "k77", "status": "failed", **reason}]


def test_a_split_shard_is_split_once(database: Database) -> None:
    job = read(database, request(), numbered(40))
    die(database, claim_next(database))
    whole, *parts = shards_of(database, job)
    assert (whole.state, [part.state for part in parts]) == ("split", ["planned"] * 3)
    assert sorted(number for part in parts for number in unpack(part.contents)) == sorted(unpack(whole.contents))
    assert sum(part.n_chars for part in parts) == sum(len(text) for _, text in numbered(40))
    assert maintenance.reclaim(database) == 0


@pytest.mark.parametrize("n_kept", [2, 3])
def test_kept_outcomes_of_a_dead_process_are_done_at_once_and_only_the_rest_is_computed(
    database: Database, n_kept: int
) -> None:
    claim = read_and_claim(database, 3)
    assert shards.keep(database, [(claim, done(claim)[:n_kept], None, ())]) == {claim}
    die(database, claim)
    assert read_status(database, claim.job_id).done == n_kept
    rest = {text for shard_id in dispatch_shards(database) for _, text in claim_shard(database, shard_id).texts}
    assert rest == {f"text {n}" for n in range(n_kept, 3)}
    assert shards.keep(database, [(claim, done(claim), None, ())]) == set()
    assert jobs.finish(database) == ([claim.job_id] if n_kept == 3 else [])


@pytest.mark.parametrize("n_kept", [0, 1])
def test_a_retry_whose_process_dies_computes_the_rest_again(database: Database, n_kept: int) -> None:
    job = run_job(database, request(), numbered(3), failed)
    jobs.retry(database, job.id)
    claim = claim_next(database)
    shards.keep(database, [(claim, done(claim)[:n_kept], None, ())])
    die(database, claim)
    assert_status(database, job.id, done=n_kept, failed=0, pending=3 - n_kept)
    finish(database)
    assert_status(database, job.id, done=3, failed=0, state="done")


def test_a_commit_writes_kept_outcomes_again_only_if_the_store_lost_them(database: Database) -> None:
    claim = read_and_claim(database, 3)
    kept, lost, new = done(claim)
    shards.keep(database, [(claim, [kept, lost], None, ())])
    database.execute(delete(OutcomeRow).where(OutcomeRow.content_id == lost.content_id))
    outcomes = [replace(outcome, text="later") for outcome in (kept, lost, new)]
    shards.commit(database, claim, outcomes, None, {kept.content_id, lost.content_id})
    with database.read() as transaction:
        rows = transaction.execute(select(OutcomeRow.content_id, OutcomeRow.text))
        texts = {row.content_id: row.text for row in rows}
    assert texts == {kept.content_id: "out", lost.content_id: "later", new.content_id: "later"}
    assert_status(database, claim.job_id, done=3, tokens_in=9)


def test_failed_attempts_back_off_and_then_fail_as_transient(database: Database) -> None:
    job = read(database, request(), numbered(2))
    sign_on(database, "w1")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        claim = claim_next(database)
        assert claim.attempt == attempt
        maintenance.failed_attempt(database, claim, "the driver fell over")
        assert dispatch_shards(database) == []  # it waits
        is_waiting = read_status(database, job.id).waiting_cause is Cause.BACKING_OFF
        assert is_waiting is (attempt < MAX_ATTEMPTS)
        set_shard(database, claim.shard_id, not_before=db_now())
    reasons = {(row["class"], row["reason"]) for row in failures(database, job.id)}
    assert reasons == {("transient", "the driver fell over")}
    assert jobs.finish(database) == [job.id]


THREE = [("a", "a"), ("b", "b"), ("c", "c")]


def test_a_retry_replaces_failures_of_one_class_or_of_all_by_results(database: Database) -> None:
    job = read(database, request(), THREE)
    claim = claim_next(database)
    mixed = [*failed(claim, Reason.TRANSIENT)[:1], *failed(claim, Reason.DOCUMENT)[1:2], *done(claim)[2:]]
    shards.commit(database, claim, mixed, None)
    jobs.finish(database)
    assert jobs.retry(database, job.id, only="model") == 0
    assert jobs.retry(database, job.id, only="transient") == 1
    assert_status(database, job.id, state="running", finished_at=None, done=1, failed=1, pending=1, ended=False)
    assert jobs.retry(database, job.id) == 1  # the retry of the other class is still running
    assert jobs.retry(database, job.id) == 0
    work(database)
    assert jobs.finish(database) == [job.id]
    assert_status(database, job.id, done=3, failed=0, pending=0, texts=3)
    assert set(outcomes(database).values()) == {"done"}


def test_a_retry_during_a_reading_does_not_end_it_and_leaves_failures_that_it_has_not_met_yet(
    database: Database,
) -> None:
    earlier = run_job(database, request(), THREE, failed)
    some = [(f"of b: {key}", text) for key, text in THREE[:2]]
    job = read(database, request("b.jsonl"), some, chunk=1, stop_after=2)
    assert jobs.retry(database, job.id) == 2
    work(database)
    assert jobs.finish(database) == []
    assert read_status(database, job.id).state == "ingesting"
    assert read(database, request("b.jsonl"), some).id == job.id
    status = read_status(database, job.id)
    assert (status.done, status.failed, status.pending) == (2, 1, 0), "the failure of the other source is unchanged"
    assert jobs.retry(database, job.id) == jobs.retry(database, earlier.id) == 1
    work(database)
    assert_status(database, job.id, done=3, failed=0, pending=0)


def test_a_vector_of_another_length_than_the_specs_first_one_is_refused(database: Database) -> None:
    spec = replace(EMBED, params={"windows": "all"})
    job = read(database, request(spec=spec), THREE)
    windows = [[0, 1], [1, 2]]

    def vectors(claim: Claim, dims: Sequence[int]) -> list[Outcome]:
        return [
            Outcome(content_id, Status.DONE, vector=bytes(4 * dim * 2), data={"dim": dim, "windows": windows})
            for (content_id, _), dim in zip(claim.texts, dims, strict=True)
        ]

    claim = claim_next(database)
    shards.keep(database, [(claim, vectors(claim, (3, 3, 3))[:1], None, ())])
    shards.commit(database, claim, vectors(claim, (3, 4, 3)), None)
    [failure] = failures(database, job.id)
    assert "its vector has 4 numbers, and earlier ones of this model have 3" in failure["reason"]
    assert "--revision" in failure["reason"]
    new_revision = read(database, request("b.jsonl", spec=replace(spec, revision="sha256:9")), THREE)
    commit_next(database, lambda claim: vectors(claim, (4, 4, 4)))
    assert read_status(database, new_revision.id).done == 3


def test_workers_with_two_models_of_one_name_store_the_vectors_of_only_one(database: Database) -> None:
    job_ids = [read(database, request(corpus=name, spec=EMBED), [(name, name)]).id for name in "abcd"]
    claims = [claim_next(database, f"w{n}") for n in range(4)]

    def commit(n: int) -> None:
        vector = [
            Outcome(content_id, Status.DONE, vector=bytes(4 * (1 + n % 2))) for content_id, _ in claims[n].texts
        ]
        shards.commit(database, claims[n], vector, None)

    at_once(*[partial(commit, n) for n in range(4)])
    n_done = [read_status(database, job_id).done for job_id in job_ids]
    assert n_done in ([1, 0, 1, 0], [0, 1, 0, 1])


def test_a_result_replaces_a_failure_and_nothing_else_replaces_an_outcome(database: Database) -> None:
    job_ids = [read(database, request(corpus=corpus), numbered(4)).id for corpus in ("left", "right")]
    left, right = claim_next(database, "w1"), claim_next(database, "w2")
    shards.commit(database, left, [*done(left, "first")[:2], *failed(left, Reason.DOCUMENT)[2:]], None)
    second, refused = done(right, "second"), failed(right, Reason.MODEL)
    shards.commit(database, right, [second[0], refused[1], second[2], refused[3]], None)
    for job_id in job_ids:
        assert [row["text"] for row in results(database, job_id)] == ["first", "first", "second"]
        assert [row["class"] for row in failures(database, job_id)] == ["document"]
    assert_status(database, job_ids[1], done=3, failed=1)


def test_too_many_failures_stop_a_job_and_a_retry_lets_it_go_on(database: Database) -> None:
    job = read(database, request(max_failures=10.0), numbered(300))
    claim, running = claim_next(database), claim_next(database)
    shards.commit(database, claim, failed(claim), None)
    jobs.finish(database)
    status = read_status(database, job.id)
    assert status.state == "stopped"
    assert status.reason == f"more than 10 % of its texts failed ({len(claim.contents)} of 300)"
    assert_taken_away(database, running)
    assert jobs.retry(database, job.id) == len(claim.contents)
    work(database)
    assert jobs.finish(database) == [job.id]
    assert_status(database, job.id, state="done", done=300, failed=0, pending=0)


def test_too_many_doubtful_results_stop_a_job_and_retries_and_new_jobs_do_not_count_them(database: Database) -> None:
    job = read(database, request(max_flagged=10.0), numbered(300))
    claim, running = claim_next(database), claim_next(database)
    n = len(claim.contents)
    shards.commit(database, claim, flagged(claim, "windowed", "empty_window"), None)
    jobs.finish(database)
    status = read_status(database, job.id)
    assert (status.state, status.reason) == ("stopped", f"more than 10 % of its texts are doubtful ({n} of 300)")
    assert_taken_away(database, running)
    assert jobs.retry(database, job.id) == 0
    assert jobs.finish(database) == []
    assert read_status(database, job.id).state == "running"
    commit_next(database, lambda claim: flagged(claim, "windowed", "empty_window"))
    jobs.finish(database)
    assert read_status(database, job.id).reason == f"more than 10 % of its texts are doubtful ({n} of 300)"
    new = read(database, request(max_flagged=10.0), numbered(300))
    jobs.retry(database, job.id, only="transient")
    work(database)
    assert sorted(jobs.finish(database)) == [job.id, new.id]
    assert_status(database, job.id, state="done", done=300, failed=0)
    assert_status(database, new.id, state="done", prior=2 * n)


def test_a_retry_does_not_revive_a_job_that_was_stopped_for_another_reason(database: Database) -> None:
    job = read(database, request(max_flagged=90.0), numbered(300))
    commit_next(database, lambda claim: flagged(claim, "windowed", "empty_window"))
    assert jobs.halt(database, job.id, "enough")
    assert jobs.retry(database, job.id) == 0
    assert read_status(database, job.id).state == "stopped"


def test_few_doubtful_results_and_remarks_do_not_stop_a_job(database: Database) -> None:
    job = read(database, request(max_flagged=0.0, max_failures=0.0), numbered(300))
    commit_next(database, lambda claim: flagged(claim, "windowed", "reduced"))
    jobs.finish(database)
    assert read_status(database, job.id).state == "running"
    commit_next(database, lambda claim: [*flagged(claim, "windowed", "empty")[:1], *done(claim)[1:]])
    jobs.finish(database)
    assert read_status(database, job.id).reason == "more than 0 % of its texts are doubtful (1 of 300)"
