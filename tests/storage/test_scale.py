"""Costs that must not grow with the store, in rows that are read and updated. `bench/scale.py` measures times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
from sqlalchemy import select, text, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, Shard, db_now
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.ingest import ingest
from docmill.storage.leases import dispatch, shards
from docmill.storage.results import marked
from docmill.storage.results.status import list_statuses, read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import (
    COPY,
    TRANSLATE,
    by_text,
    claim_next,
    commit_next,
    done,
    echo,
    numbered,
    read,
    read_and_claim,
    records,
    request,
    run_job,
    sign_on,
)

ROWS = "SELECT {} FROM pg_stat_xact_user_tables WHERE relname = '{}'"


def within(transaction: Transaction, postgres: Database) -> Any:
    """Return a database that reads and writes in this transaction."""

    @contextmanager
    def reading() -> Iterator[Transaction]:
        yield transaction

    return SimpleNamespace(read=reading, write=lambda act: act(transaction), kind_of=postgres.kind_of)


def count_rows_of(postgres: Database, act: Callable[[Any], object], table: str, *columns: str) -> tuple[int, ...]:
    """Return PostgreSQL's counts of an act's reads and writes of a table, in one transaction."""

    def in_one(transaction: Transaction) -> tuple[int, ...]:
        counts = text(ROWS.format(", ".join(columns), table))
        before = transaction.execute(counts).one()  # those of earlier transactions that are not reported yet
        act(within(transaction, postgres))
        return tuple(n - earlier for n, earlier in zip(transaction.execute(counts).one(), before, strict=True))

    return postgres.write(in_one)


def count_fetched(postgres: Database, act: Callable[[Any], object], table: str) -> int:
    """Return the number of rows of a table that an act reads."""
    return count_rows_of(postgres, act, table, "seq_tup_read + coalesce(idx_tup_fetch, 0)")[0]


def analyze(postgres: Database) -> None:
    with postgres.idle() as cursor:
        cursor.connection.autocommit = True
        cursor.execute("VACUUM (ANALYZE)")


def test_a_heartbeat_updates_rows_in_place(postgres: Database) -> None:
    """Updates in place ("heap-only") add no entries to indexes, which would have to be vacuumed."""
    read(postgres, request(), numbered(12), chunk=2)
    sign_on(postgres, "w1", slots=8)
    for _ in range(4):
        claim_next(postgres)
    for table, rows in (("shard", 4), ("worker", 1)):
        beat = count_rows_of(postgres, lambda db: shards.heartbeat(db, "w1"), table, "n_tup_upd", "n_tup_hot_upd")
        assert beat == (rows, rows), table


WALKED = """SELECT sum(pg_stat_get_xact_tuples_returned(oid)) FROM pg_class
    WHERE oid = 'shard'::regclass OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'shard'::regclass)"""


def test_a_top_up_beside_a_held_snapshot_does_not_read_shards_that_have_moved_on(postgres: Database) -> None:
    """Index entries of former states stay while `pg_dump` reads."""
    read(postgres, request(), numbered(600), chunk=1)
    shards.commit(postgres, claim := claim_next(postgres), done(claim), None)
    changes = (
        {"state": "queued", "dispatched_at": db_now() - 3_600},
        {"state": "running", "owner": "w1", "lease_until": db_now() + 60},
        {"state": "done", "lease_until": None, "finished_at": db_now()},
    )
    with psycopg.connect(postgres.engine.url.set(drivername="postgresql").render_as_string(False)) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("SELECT count(*) FROM shard")
        for values in changes:
            postgres.execute(update(Shard).where(Shard.id.between(2, 500)).values(**values))

        def top_up(transaction: Transaction) -> tuple[int, list[int]]:
            before = transaction.scalar(text(WALKED)) or 0
            [lane] = dispatch.lanes(within(transaction, postgres), "copy")
            _, taken = dispatch.take(within(transaction, postgres), lane)
            return (transaction.scalar(text(WALKED)) or 0) - before, taken

        walked, taken = postgres.write(top_up)
    assert len(taken) == 4
    assert walked < 100


def test_a_locked_job_takes_new_shards(postgres: Database) -> None:
    """Ending jobs and planning shards do not wait for each other."""
    read(postgres, request(), numbered(2))

    def lock(transaction: Transaction) -> None:
        transaction.execute(transaction.for_update(select(Job.id)))
        transaction.lock_row(Job, 1)
        postgres.write(plan)

    def plan(transaction: Transaction) -> None:
        transaction.exec_driver_sql("SET LOCAL lock_timeout = '20s'")
        transaction.exec_driver_sql("INSERT INTO step_text (job_id, step, content_id) SELECT 1, 0, id FROM content")

    postgres.write(lock)


def test_no_outcome_locks_its_spec(postgres: Database) -> None:
    claim = read_and_claim(postgres, 4)
    lockers = text("SELECT xmax::text FROM spec")  # the transaction, or the list of them, that locked the row last
    with postgres.read() as transaction:
        before = transaction.scalar(lockers)
    shards.commit(postgres, claim, done(claim), None)
    with postgres.read() as transaction:
        assert transaction.scalar(lockers) == before


def test_a_status_reads_few_shards(postgres: Database) -> None:
    read(postgres, request(), numbered(2), chunk=1)
    commit_next(postgres)
    ended = update(Shard).where(Shard.state == "done").values(finished_at=db_now() - 7200)
    columns = ", ".join(column.name for column in Shard.__table__.columns if column.name != "id")
    copies = text(f"INSERT INTO shard ({columns}) SELECT {columns} FROM shard, generate_series(1, 1000)")
    postgres.write(lambda transaction: (transaction.execute(ended), transaction.execute(copies)))
    analyze(postgres)
    assert read_status(postgres, 1).shards == {"done": 1001, "queued": 1001}
    for look in (lambda db: read_status(db, 1), list_statuses, lambda db: jobs.finish(db, 1)):
        assert count_fetched(postgres, look, "shard") < 150


def test_a_new_corpus_is_looked_up_by_its_keys(postgres: Database) -> None:
    """PostgreSQL's statistics, which know only the first corpus, must not lead to a scan."""
    read(postgres, request(), numbered(3_000))
    analyze(postgres)
    job = jobs.open_job(postgres, request("b.jsonl", corpus="poems"))
    ingest.add(postgres, job, records(numbered(400)))
    assert (
        count_fetched(postgres, lambda db: ingest.add(db, job, records(numbered(400, 400), 400)), "document") < 4_000
    )


PROMPTED = Spec("generate", "writer", "sha256:4", params={"prompt": "{text}, {meta.n} letters"})
STEPS = (
    StepRequest("english", TRANSLATE),
    StepRequest("copied", COPY, "english"),
    StepRequest("prompted", PROMPTED, "english"),
)


def test_a_corpus_that_is_newer_than_the_statistics_is_not_read_for_each_of_its_texts(postgres: Database) -> None:
    """PostgreSQL takes such a corpus for one document, and any index that leads to it for as good as another."""
    with postgres.idle() as cursor:
        for table in ("document", "outcome", "prompt"):
            cursor.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    run_job(postgres, request(steps=STEPS), numbered(3), echo)
    analyze(postgres)
    n = 900  # PostgreSQL rightly reads a table of fewer documents as a whole
    new = partial(request, corpus="new", steps=STEPS)
    marks = by_text(lambda text: {"text": f"out of {text}", "flags": ("windowed",) if "text 8" in text else ()})
    job = run_job(postgres, new("a"), numbered(n, 3), marks)
    for step in ("copied", "prompted"):
        flagged_page = partial(marked.flagged_page, job_id=job.id, step=step)
        assert count_fetched(postgres, flagged_page, "document") < n, step
    again = jobs.open_job(postgres, new("b"))
    counts = ingest.add(postgres, again, records([(key, f"new {text}") for key, text in numbered(n // 10, 3)]))
    end = partial(ingest.end, job=again, read=counts)
    assert count_fetched(postgres, end, "document") < 10 * n
