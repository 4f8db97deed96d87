"""Threads that read, work, remove and collect at once leave a store without dangling references."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Corpus, Document, Job, OutcomeRow, Prompt, Shard, StepText, db_now
from docmill.storage.core.specs import Outcome, Reason, ShardSize, Spec, Status
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc, removal
from docmill.storage.deletion.paging import Removed
from docmill.storage.errors import JobStopped, LeaseLost, NotFound, StorageError
from docmill.storage.ingest import ingest
from docmill.storage.ingest.ingest import Counts
from docmill.storage.leases import dispatch, maintenance, policy, shards
from docmill.storage.leases.shards import Claim
from docmill.storage.steps import jobs
from docmill.storage.steps.steps import StepRequest
from tests.kinds import sized
from tests.storage.builders import (
    COPY,
    TRANSLATE,
    at_once,
    chunks,
    count_rows,
    dispatch_shards,
    failed,
    finish,
    is_lock_awaited,
    numbered,
    queued,
    read,
    request,
    run_job,
    try_claim,
)
from tests.storage.fleet import STEPS
from tests.storage.invariants import assert_invariants
from tests.worker.harness import DEADLINE_S, until

CORPORA = ("books", "poems")
FATES = (Status.DONE, Status.DONE, Status.DONE, Reason.DOCUMENT, Reason.TRANSIENT, Status.SKIPPED)
KEYS = "abcdef"
TEXTS = [f"text {n}" for n in range(6)] + ["1 txet"]  # the last is the output of another
PROMPTED = Spec("generate", "writer", "sha256:4", params={"prompt": "{meta.n} {text}"})
THERE_AND_BACK = (
    StepRequest("there", TRANSLATE),
    StepRequest("back", STEPS[1].spec, "there"),
    StepRequest("prompted", PROMPTED, "there"),
)


class Rival:
    """A process that makes random moves, without regard for the other processes."""

    def __init__(self, database: Database, seed: str) -> None:
        self.database = database
        self.seed = seed
        self.chance = random.Random(seed)
        self.claims: list[Claim] = []

    def make_moves(self, n: int) -> None:
        moves: list[Callable[[], object]] = [
            *[self.read] * 3,
            *[self.claim] * 4,
            *[self.commit] * 4,
            *(self.release, self.fail, self.let_time_pass, self.keep_up, self.change_a_job),
            *(self.remove, self.remove, self.collect, self.drop, self.reduce, self.reduce),
            lambda: shards.heartbeat(self.database, self.seed),
            lambda: maintenance.reclaim(self.database, self.seed),
            lambda: maintenance.release_owner(self.database, self.seed),
            lambda: assert_invariants(self.database),
        ]
        for _ in range(n):
            try:
                self.chance.choice(moves)()
            except (JobStopped, LeaseLost, NotFound):
                pass
            except StorageError as error:
                if "; `docmill cancel" not in str(error):  # the corpus is in use
                    raise

    def read(self) -> None:
        """Read a source to its end, or cut the reading off."""
        corpus = self.chance.choice(CORPORA)
        texts = [(self.chance.choice(KEYS), self.chance.choice(TEXTS)) for _ in range(self.chance.randint(1, 6))]
        limits: dict[str, Any] = {
            "priority": self.chance.randint(0, 1),
            "max_failures": self.chance.choice([None, None, 60.0]),
        }
        single = request(self.chance.choice("ab"), corpus=corpus, spec=COPY, **limits)
        chain = request(self.chance.choice("ab"), corpus=corpus, steps=THERE_AND_BACK, **limits)
        cut_off = 1 if self.chance.random() < 0.2 else None
        read(self.database, self.chance.choice([single, chain]), texts, chunk=2, stop_after=cut_off)

    def claim(self) -> None:
        waiting = queued(self.database) or dispatch_shards(self.database)
        if waiting and (claim := try_claim(self.database, self.chance.choice(waiting), self.seed)) is not None:
            self.claims.append(claim)

    def some_claim(self) -> Claim | None:
        """Return one of the claims, which may be lost. Sometimes keep it, as if its work were not over."""
        if not self.claims:
            return None
        claim = self.chance.choice(self.claims)
        if self.chance.random() < 0.8:
            self.claims.remove(claim)
        return claim

    def outcomes(self, claim: Claim) -> list[Outcome]:
        return [_outcome(content_id, text, self.chance.choice(FATES)) for content_id, text in claim.texts]

    def commit(self) -> None:
        if (claim := self.some_claim()) is not None:
            shards.commit(self.database, claim, self.outcomes(claim), None)

    def release(self) -> None:
        if (claim := self.some_claim()) is not None:
            shards.release(self.database, claim, self.outcomes(claim)[: self.chance.randint(0, 2)])

    def fail(self) -> None:
        if (claim := self.some_claim()) is not None:
            maintenance.failed_attempt(self.database, claim, "the driver fell over")

    def let_time_pass(self) -> None:
        """Let so much time pass that leases lapse and no shard waits after an error."""
        claimed = [claim.shard_id for claim in self.claims]

        def move_times(transaction: Transaction) -> None:
            held = update(Shard).where(Shard.id.in_(claimed), Shard.state == "running")
            transaction.execute(held.values(lease_until=db_now() - 1.0))
            transaction.execute(update(Shard).where(Shard.state == "planned").values(not_before=0.0))

        self.database.write(move_times)
        maintenance.reclaim(self.database)

    def keep_up(self) -> None:
        jobs.finish(self.database)
        for lane in dispatch.lanes(self.database):
            maintenance.lost_hints(self.database, lane.name, queue_is_empty=True, grace_s=0.0)

    def change_a_job(self) -> None:
        acts: list[Callable[..., object]] = [jobs.pause, jobs.resume, jobs.resume, jobs.retry, jobs.cancel]
        if job_ids := list_jobs(self.database):
            self.chance.choice(acts)(self.database, self.chance.choice(job_ids))

    def remove(self) -> None:
        corpus = self.chance.choice(CORPORA)
        if self.chance.random() < 0.3:
            removal.remove_corpus(self.database, corpus)
        else:
            removal.remove_documents(self.database, corpus, self.chance.sample(KEYS, 2))

    def collect(self) -> None:
        gc.collect(self.database)

    def drop(self) -> None:
        gc.drop(self.database)

    def reduce(self) -> None:
        removal.remove_versions(self.database, 0)


def _outcome(content_id: int, text: str, fate: Status | Reason = Status.DONE) -> Outcome:
    """Return an outcome; the output of a text is its reversal."""
    if isinstance(fate, Reason):
        return Outcome(content_id, Status.FAILED, reason="it would not", reason_class=fate)
    return Outcome(content_id, fate, text=text[::-1], tokens_in=2, tokens_out=1)


def list_jobs(database: Database, *states: str) -> list[int]:
    """Return the ids of the jobs in these states, or of all jobs."""
    rows = database.rows(select(Job.id, Job.state).order_by(Job.id))
    return [row.id for row in rows if not states or row.state in states]


@pytest.fixture
def gives_up_soon(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards hold few texts, and fail after few attempts."""
    small = {kind: ShardSize(2, 1_000) for kind in ("copy", "translate", "summarize", "generate")}
    monkeypatch.setattr(database, "kinds", sized(**small))
    for name, value in {"MAX_ATTEMPTS": 2, "LAPSES_TOGETHER": 2, "MAX_LAPSES": 4}.items():
        monkeypatch.setattr(policy, name, value)


@pytest.mark.long_on("sqlite")
@pytest.mark.usefixtures("gives_up_soon")
@pytest.mark.parametrize("moves", [60, *(pytest.param(n, marks=pytest.mark.soak) for n in range(200, 240))])
def test_rivals_leave_no_dangling_reference_and_no_unreferenced_row(database: Database, moves: int) -> None:
    """DOCMILL_TEST_SEED repeats the moves of a run, though not the order in which the threads make them."""
    seed = os.environ.get("DOCMILL_TEST_SEED", str(random.SystemRandom().randrange(2**32)))
    print(f"DOCMILL_TEST_SEED={seed}")
    at_once(*[lambda n=n: Rival(database, f"{seed}/{n}").make_moves(moves) for n in range(4)])
    settle(database)
    assert_whole(database)
    removal.remove_versions(database, 0)
    assert gc.collect(database) == Removed()
    assert_whole(database)
    for corpus in CORPORA:
        with suppress(NotFound):
            removal.remove_corpus(database, corpus)
    gc.collect(database)
    for table in (Document, Content, OutcomeRow, StepText, Shard, Job, Prompt):
        assert count_rows(database, table) == 0, table


def settle(database: Database) -> None:
    """Work off all jobs, and cancel those whose reading was cut off."""
    dispatch.put_back(database, queued(database))
    for job_id in list_jobs(database):
        jobs.resume(database, job_id)
    owners = {owner for owner in database.values(select(Shard.owner)) if owner is not None}
    for owner in owners:
        maintenance.release_owner(database, owner)
    database.execute(update(Shard).values(not_before=0.0))
    finish(database, lambda claim: [_outcome(content_id, text) for content_id, text in claim.texts])
    for job_id in list_jobs(database, "ingesting"):
        jobs.cancel(database, job_id)
    gc.collect(database)
    assert gc.collect(database) == Removed()


def assert_whole(database: Database) -> None:
    """Assert that all jobs have ended, the invariants hold, and every content is referenced, even in circles."""
    assert_invariants(database)
    assert not list_jobs(database, "running")
    with database.read() as transaction:
        contents = set(transaction.scalars(select(Content.id)))
        outcomes = transaction.execute(select(OutcomeRow.content_id, OutcomeRow.output_id)).all()
        referenced = {
            *transaction.scalars(select(Document.content_id)),
            *transaction.scalars(select(Prompt.content_id)),
        }
    for _ in range(len(contents)):
        referenced |= {
            row.output_id for row in outcomes if row.content_id in referenced and row.output_id is not None
        }
    assert contents == referenced


def test_a_reference_to_a_text_that_is_removed_meanwhile_is_tried_again(postgres: Database) -> None:
    # A worker of the release before may refer to a text without taking the lock of collection.
    read(postgres, request(), numbered(1))
    jobs.cancel(postgres, 1)
    postgres.execute(text("DELETE FROM document"))
    row = {"spec_id": 1, "status": "done", "flags": [], "tokens_in": 0, "tokens_out": 0, "created_at": 0.0}
    tries: list[list[int]] = []

    def refer(transaction: Transaction) -> None:
        tries.append([*transaction.scalars(select(Content.id))])
        gc.collect(postgres)
        for content_id in tries[-1]:
            transaction.execute(insert(OutcomeRow.__table__).values(content_id=content_id, **row))

    postgres.write(refer)
    assert tries == [[1], []]


def test_collection_waits_for_a_writer_that_refers_to_a_text(postgres: Database) -> None:
    read(postgres, request(), numbered(1))
    jobs.cancel(postgres, 1)
    postgres.execute(text("DELETE FROM document"))
    inside = threading.Event()

    def refer(transaction: Transaction) -> None:
        transaction.keep_contents()
        inside.set()
        until(lambda: is_lock_awaited(postgres), "collection waits")
        columns = "corpus_id, key, content_id, meta, flags, seq, ingest_id"
        values = "SELECT 1, 'k', id, '{}', '[]', 0, 1 FROM content"
        transaction.execute(text(f"INSERT INTO document ({columns}) {values}"))

    def collect() -> Removed:
        assert inside.wait(DEADLINE_S)
        return gc.collect(postgres)

    assert at_once(lambda: postgres.write(refer), collect)[1] == Removed()


@pytest.mark.parametrize("ends", [False, True])
def test_a_reading_that_waits_for_a_removal_does_not_lock_the_corpus(postgres: Database, ends: bool) -> None:
    job = read(postgres, request(), numbered(1), stop_after=1)

    def go_on() -> None:
        if ends:
            ingest.end(postgres, job, Counts())
        else:
            ingest.add(postgres, job, chunks(numbered(1, 1), 1)[0])

    def remove(transaction: Transaction) -> list[int]:
        gc.begin(transaction)
        reading.append(pool.submit(go_on))
        until(lambda: reading[0].done() or is_lock_awaited(postgres), "the reading waits, or is over")
        query = select(Corpus.id).where(Corpus.id == job.corpus_id)
        return [*transaction.scalars(transaction.for_update(query, skip_locked=True))]

    reading = list[Future[None]]()
    with ThreadPoolExecutor(1) as pool:
        assert postgres.write(remove) == [job.corpus_id]
        reading[0].result(60)


def test_a_retry_refers_to_texts_and_waits_for_collection(postgres: Database) -> None:
    job = run_job(postgres, request(), numbered(1), failed)

    def collect(transaction: Transaction) -> None:
        gc.begin(transaction)
        retried.append(pool.submit(jobs.retry, postgres, job.id))
        until(lambda: retried[0].done() or is_lock_awaited(postgres), "the retry waits, or is over")
        assert not retried[0].done()

    retried = list[Future[int]]()
    with ThreadPoolExecutor(1) as pool:
        postgres.write(collect)
        assert retried[0].result(60) == 1
