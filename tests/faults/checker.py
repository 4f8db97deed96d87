"""Check a store after a fault: the invariants hold, and the status and the exports agree with the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document, Job, OutcomeRow, Shard, Step, db_now
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps import lineage
from tests.storage.invariants import assert_invariants


@dataclass(frozen=True)
class Books:
    """A job as the tables have it."""

    job: Any
    contents: dict[str, int]  # by document
    statuses: dict[int, str]  # by content, of those that have an outcome


def read_books(database: Database, job_id: int) -> Books:
    with database.read() as transaction:
        job = Job.of(transaction.execute(select(Job).where(Job.id == job_id)).one())
        documents = transaction.execute(select(Document.key, Document.content_id).where(lineage.visible(job))).all()
        outcomes = transaction.execute(
            select(OutcomeRow.content_id, OutcomeRow.status)
            .join(Step, Step.spec_id == OutcomeRow.spec_id)
            .join(Document, Document.content_id == OutcomeRow.content_id)
            .where(Step.job_id == job_id, Step.seq == 0, lineage.visible(job))
        )
        return Books(
            job,
            {document.key: document.content_id for document in documents},
            {outcome.content_id: outcome.status for outcome in outcomes},
        )


def check(database: Database, job_id: int, *, state: str = "done") -> JobStatus:
    """Assert what must hold of an ended job after any fault, and return its status."""
    status = read_status(database, job_id)
    assert status.state == state, f"job {job_id} is {status.state} and not {state}: {vars(status)}"
    assert_invariants(database)
    books = read_books(database, job_id)
    if state == "done":
        counts = Counter({"done": status.done, "failed": status.failed, "skipped": status.skipped})
        assert +counts == Counter(books.statuses.values()), f"status counts {dict(counts)}, and not the outcomes"
        assert status.pending == 0
    _assert_nothing_forgotten(database, job_id)
    _assert_exports_agree(database, books)
    return status


def _assert_nothing_forgotten(database: Database, job_id: int) -> None:
    """Assert that no shard of the job runs, and no shard of another job under a lapsed lease."""
    lapsed = or_(Shard.job_id == job_id, Shard.lease_until < db_now())
    forgotten = database.values(select(Shard.id).where(Shard.state == "running", lapsed))
    assert not forgotten, f"shards that run after the job, or under no lease: {abbreviate(forgotten)}"


def _assert_exports_agree(database: Database, books: Books) -> None:
    result_counts = Counter(row["id"] for row in results(database, books.job.id))
    failure_counts = Counter(row["id"] for row in failures(database, books.job.id) if row["status"] != "rejected")
    doubled = [key for key, n in (result_counts + failure_counts).items() if n > 1]
    assert not doubled, f"documents that are exported twice: {abbreviate(doubled)}"
    for exported, statuses in ((result_counts, {"done"}), (failure_counts, {"failed", "skipped"})):
        stored = {key for key, content_id in books.contents.items() if books.statuses.get(content_id) in statuses}
        assert set(exported) == stored, (
            f"{'/'.join(sorted(statuses))}: in the export only {abbreviate(set(exported) - stored)}, "
            f"in the store only {abbreviate(stored - set(exported))}"
        )


def abbreviate(names: Iterable[Any]) -> str:
    """Return a text with the number of names and the first few."""
    ordered = sorted(names)
    return f"{len(ordered)} ({', '.join(map(str, ordered[:8]))}{', …' if len(ordered) > 8 else ''})"
