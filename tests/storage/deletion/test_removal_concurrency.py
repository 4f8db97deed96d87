"""Threads that read, work, remove and collect at once leave a store in which nothing dangles."""

from __future__ import annotations

import random
import threading
from contextlib import suppress

import pytest
from sqlalchemy import Table, func, insert, select, text

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Document, Job, OutcomeRow, Prompt, Shard, StepText
from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc, removal
from docmill.storage.deletion.paging import Removed
from docmill.storage.errors import JobStopped, LeaseLost, NotFound, StorageError
from docmill.storage.leases import dispatch, maintenance, shards
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from tests.kinds import KINDS
from tests.storage.builders import (
    COPY,
    TRANSLATE,
    at_once,
    claim_shard,
    dispatched,
    finish,
    numbered,
    queued,
    read,
    request,
    work,
)
from tests.storage.invariants import assert_invariants
from tests.storage.steps.test_steps import STEPS
from tests.worker.harness import until

CORPORA = ("books", "poems")
KEYS = "abcdef"
TEXTS = [f"text {n}" for n in range(6)] + ["1 txet"]  # one is what becomes of another
TOLD = Spec("generate", "writer", "sha256:4", params={"prompt": "{meta.n} {text}"})
THERE_AND_BACK = (
    StepRequest("there", TRANSLATE),
    StepRequest("back", STEPS[1].spec, "there"),
    StepRequest("told", TOLD, "there"),
)


class Housekeeper:
    """One of several that make moves at random, each with no regard for the others."""

    def __init__(self, database: Database, seed: str) -> None:
        self.database = database
        self.seed = seed
        self.chance = random.Random(seed)

    def make_moves(self, n: int) -> None:
        moves = [self.read, self.read, *[self.work] * 4, self.remove, self.remove, self.collect, self.drop, self.end]
        moves += [self.reduce, self.reduce, self.look]
        for _ in range(n):
            try:
                self.chance.choice(moves)()
            except (JobStopped, LeaseLost, NotFound):
                pass
            except StorageError as error:
                if "; `docmill cancel" not in str(error):  # the corpus is in use
                    raise

    def read(self) -> None:
        corpus = self.chance.choice(CORPORA)
        texts = [(self.chance.choice(KEYS), self.chance.choice(TEXTS)) for _ in range(self.chance.randint(1, 6))]
        one = request(self.chance.choice("ab"), corpus=corpus, spec=COPY)
        two = JobRequest(corpus, self.chance.choice("ab"), THERE_AND_BACK)
        read(self.database, self.chance.choice([one, two]), texts, chunk=2)

    def work(self) -> None:
        waiting = queued(self.database) or dispatched(self.database)
        claim = claim_shard(self.database, self.chance.choice(waiting), self.seed) if waiting else None
        if claim is not None:
            outcomes = [Outcome(one, Status.DONE, text=said[::-1]) for one, said in claim.texts]
            shards.commit(self.database, claim, outcomes, None)

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

    def look(self) -> None:
        assert_invariants(self.database)

    def end(self) -> None:
        jobs.finish(self.database)
        with self.database.read() as transaction:
            known = list(transaction.scalars(select(Job.id)))
        if known and self.chance.random() < 0.3:
            jobs.cancel(self.database, self.chance.choice(known))


@pytest.mark.long_on("sqlite")
@pytest.mark.parametrize("moves", [25, *(pytest.param(n, marks=pytest.mark.soak) for n in range(60, 70))])
def test_rivals_leave_nothing_dangling_and_nothing_loose(database: Database, moves: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    at_once(*[lambda n=n: Housekeeper(database, f"{seed}/{n}").make_moves(moves) for n in range(4)])
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
        with database.read() as transaction:
            assert transaction.scalar(select(func.count()).select_from(table)) == 0, table


def settle(database: Database) -> None:
    """All that can be worked off is."""
    dispatch.put_back(database, queued(database))
    for n in range(4):
        maintenance.reclaim(database, f"{n}")
    with database.read() as transaction:
        owners = {owner for owner in transaction.scalars(select(Shard.owner)) if owner is not None}
    for owner in owners:
        maintenance.release_owner(database, owner)
    finish(database, lambda claim: [Outcome(one, Status.DONE, text=said[::-1]) for one, said in claim.texts])
    gc.collect(database)
    assert gc.collect(database) == Removed()


def assert_whole(database: Database) -> None:
    """Jobs ended, the invariants hold, and nothing is loose, not even in a circle."""
    assert_invariants(database)
    with database.read() as transaction:
        assert not list(transaction.scalars(select(Job.id).where(Job.state == "running")))
        contents = set(transaction.scalars(select(Content.id)))
        outcomes = transaction.execute(select(OutcomeRow.content_id, OutcomeRow.output_id)).all()
        led_to = {*transaction.scalars(select(Document.content_id)), *transaction.scalars(select(Prompt.content_id))}
    for _ in range(len(contents)):
        led_to |= {row.output_id for row in outcomes if row.content_id in led_to and row.output_id is not None}
    assert contents == led_to


def test_a_reader_that_found_a_text_waits_for_collection_or_keeps_it(database: Database) -> None:
    # The text is loose, and found by its hash, at the moment in which it is collected.
    read(database, request(), numbered(20))
    jobs.cancel(database, 1)
    loosen(database)
    at_once(
        lambda: read(database, request("b.jsonl"), numbered(20), chunk=1),
        lambda: [gc.collect(database) for _ in range(20)],
    )
    with database.read() as transaction:
        assert transaction.scalar(select(func.count()).select_from(Document)) == 20
    assert gc.collect(database) == Removed()
    work(database)
    assert jobs.finish(database) == [2]


def loosen(database: Database) -> None:
    database.write(lambda transaction: transaction.execute(text("DELETE FROM document")))


def test_who_does_not_take_turns_is_stopped_by_the_key_and_tries_again(postgres_url: str) -> None:
    # As a worker of the release before does it: an outcome of a text that is being removed.
    database = Database(postgres_url, kinds=KINDS)
    read(database, request(), numbered(1))
    jobs.cancel(database, 1)
    loosen(database)
    removed, found = threading.Event(), threading.Event()
    tries: list[int] = []
    table: Table = OutcomeRow.__table__
    row = {"spec_id": 1, "status": "done", "flags": [], "tokens_in": 0, "tokens_out": 0, "created_at": 0.0}

    def put(transaction: Transaction) -> None:
        there = transaction.scalar(select(Content.id))
        tries.append(there or 0)
        found.set()
        assert removed.wait(10)
        if there is not None:
            transaction.execute(insert(table).values(content_id=there, **row))

    def remove() -> None:
        assert found.wait(10)
        gc.collect(database)
        removed.set()

    at_once(lambda: database.write(put), remove)
    assert tries == [1, 0]
    database.close()


def test_collection_waits_for_whoever_refers_to_a_text(postgres_url: str) -> None:
    database = Database(postgres_url, kinds=KINDS)
    read(database, request(), numbered(1))
    jobs.cancel(database, 1)
    loosen(database)
    inside = threading.Event()

    def somebody_waits() -> bool:
        with database.read() as transaction:
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
            waiting += "(SELECT oid FROM pg_database WHERE datname = current_database())"
            return bool(transaction.scalar(text(waiting)))

    def refer(transaction: Transaction) -> None:
        transaction.keep_contents()
        inside.set()
        until(somebody_waits, "collection waits", 10)
        columns = "corpus_id, key, content_id, meta, flags, seq, ingest_id"
        values = "SELECT 1, 'k', id, '{}', '[]', 0, 1 FROM content"
        transaction.execute(text(f"INSERT INTO document ({columns}) {values}"))

    def collect() -> Removed:
        assert inside.wait(10)
        return gc.collect(database)

    assert at_once(lambda: database.write(refer), collect)[1] == Removed()
    database.close()
