"""The books after a fault: nothing lost, nothing doubled, nothing forgotten, and the exports agree with the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document, Job, OutcomeRow, Shard, Step, db_now
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps import lineage
from docmill.storage.steps.sharding import unpack

OPEN = ("planned", "queued", "running")


@dataclass(frozen=True)
class Books:
    """A job as the tables have it."""

    job: Any
    step: Any
    contents: dict[str, int]  # by document
    statuses: dict[int, str]  # by content, of those that have an outcome
    shards: tuple[Any, ...]
    orphans: int  # shards that run under a lease that lapsed, or under none


def read_books(database: Database, job_id: int) -> Books:
    with database.read() as transaction:
        job = Job.of(transaction.execute(select(Job).where(Job.id == job_id)).one())
        step = transaction.execute(select(Step).where(Step.job_id == job_id, Step.seq == 0)).one()
        documents = transaction.execute(select(Document.key, Document.content_id).where(lineage.visible(job))).all()
        doubled = [key for key, n in Counter(document.key for document in documents).items() if n > 1]
        assert not doubled, f"documents that are there twice: {some(doubled)}"
        outcomes = transaction.execute(
            select(OutcomeRow.content_id, OutcomeRow.status, OutcomeRow.reason)
            .join(Document, and_(Document.content_id == OutcomeRow.content_id))
            .where(OutcomeRow.spec_id == step.spec_id, lineage.visible(job))
            .distinct()
        ).all()
        twice = [n for n, times in Counter(outcome.content_id for outcome in outcomes).items() if times > 1]
        assert not twice, f"contents with two outcomes: {some(twice)}"
        unexplained = [one.content_id for one in outcomes if one.status == "failed" and not one.reason]
        assert not unexplained, f"contents that failed for no reason: {some(unexplained)}"
        shards = tuple(transaction.execute(select(Shard).where(Shard.job_id == job_id).order_by(Shard.id)))
        lapsed = func.coalesce(Shard.lease_until, 0.0) < db_now()
        orphans = transaction.scalar(select(func.count()).where(Shard.state == "running", lapsed))
    return Books(
        job,
        step,
        {document.key: document.content_id for document in documents},
        {outcome.content_id: outcome.status for outcome in outcomes},
        shards,
        orphans or 0,
    )


def check(database: Database, job_id: int, *, state: str = "done") -> JobStatus:
    """Everything that must hold of a job that ended, whatever happened to it meanwhile; its status."""
    status = read_status(database, job_id)
    assert status.state == state, f"job {job_id} is {status.state} and not {state}: {vars(status)}"
    books = read_books(database, job_id)
    if state == "done":
        _nothing_is_lost(books)
        _the_counters_agree(books, status)
    _nothing_is_forgotten(books)
    _nothing_is_planned_twice(books)
    _the_exports_agree(database, books)
    return status


def _nothing_is_lost(books: Books) -> None:
    lost = [key for key, content_id in books.contents.items() if content_id not in books.statuses]
    assert not lost, f"documents without an outcome: {some(lost)}"


def _nothing_is_forgotten(books: Books) -> None:
    assert books.orphans == 0, f"{books.orphans} shards run although their lease lapsed"
    states = Counter(shard.state for shard in books.shards)
    assert states["running"] == 0, f"shards that run although the job is {books.job.state}: {states}"
    if books.job.state == "done":
        assert not [state for state in OPEN if states[state]], f"a job that is done has open shards: {states}"


def _nothing_is_planned_twice(books: Books) -> None:
    """A text is in one shard of its job, and once more for each time that it was retried; split ones hold nothing."""
    held = Counter(
        content_id for shard in books.shards if shard.state != "split" for content_id in unpack(shard.contents)
    )
    extra = sum(held.values()) - len(held)
    doubled = [content_id for content_id, n in held.items() if n > 1]
    assert extra == books.step.n_retried, f"contents in two shards: {some(doubled)}"


def _the_counters_agree(books: Books, status: JobStatus) -> None:
    for shard in books.shards:
        counted = {"done": shard.n_done, "failed": shard.n_failed, "skipped": shard.n_skipped}
        assert sum(counted.values()) == shard.n_contents, f"shard {shard.id} counts {counted} of {shard.n_contents}"
        if shard.state == "done" and not books.step.n_retried:
            found = Counter(books.statuses[content_id] for content_id in unpack(shard.contents))
            assert counted == {name: found[name] for name in counted}, f"shard {shard.id} counts {counted}: {found}"
    told = Counter({"done": status.done, "failed": status.failed, "skipped": status.skipped})
    stored = Counter(books.statuses.values())
    assert +told == stored, f"status counts {dict(told)}, the outcomes are {dict(stored)}"
    assert status.pending == 0


def _the_exports_agree(database: Database, books: Books) -> None:
    done = Counter(row["id"] for row in results(database, books.job.id))
    others = Counter(row["id"] for row in failures(database, books.job.id) if row["status"] != "rejected")
    doubled = [key for key, n in (done + others).items() if n > 1]
    assert not doubled, f"documents that are exported twice: {some(doubled)}"
    for exported, wanted in ((done, {"done"}), (others, {"failed", "skipped"})):
        stored = {key for key, content_id in books.contents.items() if books.statuses.get(content_id) in wanted}
        assert set(exported) == stored, (
            f"{'/'.join(sorted(wanted))}: in the export only {some(set(exported) - stored)}, "
            f"in the store only {some(stored - set(exported))}"
        )


def some(names: Iterable[Any]) -> str:
    """Return the number of names and the first few."""
    every = sorted(names)
    return f"{len(every)} ({', '.join(map(str, every[:8]))}{', …' if len(every) > 8 else ''})"
