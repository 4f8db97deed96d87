"""Laws of a store that hold at every moment, and from one moment to the next."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Document, Job, OutcomeRow, Shard, SpecRow, Step
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import JobStatus
from docmill.storage.steps.jobs import UNFINISHED
from docmill.storage.steps.sharding import OPEN_SHARDS, unpack
from tests.storage.invariants import assert_invariants

NEWEST = 2**62  # a document that is not there yet
TALLY = ("n_done", "n_failed", "n_skipped")


@dataclass(frozen=True)
class Picture:
    """All that a store holds of jobs at one moment. `contents` are those of each shard, `outcomes` have
    (status, text, class of the reason).
    """

    jobs: dict[int, Any]
    shards: dict[int, Any]
    contents: dict[int, tuple[int, ...]]
    outcomes: dict[tuple[int, int], tuple[str, str | None, str | None]]
    documents: list[Any]
    lengths: dict[int, int]

    def documents_of(self, ingest_id: int) -> list[Any]:
        """The versions that a job's own reading brought."""
        return [row for row in self.documents if row.ingest_id == ingest_id]

    def shards_of(self, job_id: int) -> list[Any]:
        return [row for row in self.shards.values() if row.job_id == job_id and row.state != "split"]

    def shape(self, job_id: int) -> Any:
        """All that a job's status is made of, but for who waits for whom."""
        return self.jobs.get(job_id), self.shards_of(job_id)

    def held(self, rows: Collection[Any]) -> Counter[int]:
        """Count each content in these shards."""
        return Counter(content_id for row in rows for content_id in self.contents[row.id])

    def met(self, job_id: int) -> set[int]:
        """The contents that a job has come across: those of the documents that it walked (`planning`)."""
        job = self.jobs[job_id]
        return {row.content_id for row in self.documents if _is_walked(job, row)}

    def covered(self, job_id: int) -> dict[str, int]:
        """{key: content} of the documents that belong to a job."""
        job = self.jobs[job_id]
        return {row.key: row.content_id for row in self.documents if _is_covered(job, row)}

    def retriable(self, job_id: int) -> set[int]:
        """The contents that a retry may be about."""
        job = self.jobs[job_id]
        return {row.content_id for row in self.documents if _is_covered(job, row) and _is_walked(job, row)}

    def prior(self, job_id: int) -> set[int]:
        """The contents that had an outcome when the job came across them."""
        return self.met(job_id) - self.held([row for row in self.shards_of(job_id) if not row.redo]).keys()


def _is_walked(job: Any, row: Any) -> bool:
    was_swept = row.id <= job.swept_to and (row.superseded_by is None or row.superseded_by > job.base_document)
    return bool(row.corpus_id == job.corpus_id and (row.ingest_id == job.ingest_id or was_swept))


def _is_covered(job: Any, row: Any) -> bool:
    last = NEWEST if job.last_document is None else job.last_document
    return bool(row.corpus_id == job.corpus_id and row.id <= last < (row.superseded_by or math.inf))


_DOCUMENTS: Any = select(
    Document.id, Document.corpus_id, Document.key, Document.content_id, Document.ingest_id, Document.superseded_by
)
_LENGTHS: Any = select(Content.id, Content.n_chars)


_OF_STEP = (Step.spec_id, Step.n_prior_done, Step.n_prior_failed, Step.n_prior_skipped, Step.n_retried)


def look(database: Database, before: Picture | None = None) -> Picture:
    """Return the content of the store. Documents and texts are those of `before`, if given."""
    with database.read() as transaction:
        of_job = (
            select(Job, *_OF_STEP, SpecRow.kind.label("lane"))
            .join(Step, and_(Step.job_id == Job.id, Step.seq == 0))
            .join(SpecRow, SpecRow.id == Step.spec_id)
        )
        jobs = {row.id: row for row in transaction.execute(of_job)}
        shards = {row.id: row for row in transaction.execute(select(Shard).order_by(Shard.id))}
        outcome = select(
            OutcomeRow.spec_id, OutcomeRow.content_id, OutcomeRow.status, OutcomeRow.text, OutcomeRow.reason_class
        )
        outcomes = {
            (row.spec_id, row.content_id): (row.status, row.text, row.reason_class)
            for row in transaction.execute(outcome)
        }
        documents = before.documents if before else [*transaction.execute(_DOCUMENTS)]
        lengths = before.lengths if before else {row.id: row.n_chars for row in transaction.execute(_LENGTHS)}
    return Picture(
        jobs=jobs,
        shards=shards,
        contents={row.id: tuple(unpack(row.contents)) for row in shards.values()},
        outcomes=outcomes,
        documents=documents,
        lengths=lengths,
    )


def assert_lawful(database: Database, picture: Picture) -> None:
    """Assert the laws that hold at any moment: the invariants, and what SQL does not see."""
    assert_invariants(database)
    for row in picture.shards.values():
        stands_for = () if row.state == "split" else picture.contents[row.id]
        assert row.n_chars == sum(picture.lengths[content_id] for content_id in stands_for), row
    for job in picture.jobs.values():
        shards, prior = picture.shards_of(job.id), picture.prior(job.id)
        assert picture.held(shards).keys() <= picture.met(job.id), "what is planned was met"
        assert len(prior) == job.n_prior_done + job.n_prior_failed + job.n_prior_skipped, job


def assert_quiet(picture: Picture) -> None:
    """Assert the law that holds while no process acts: no shard of a job that does not run is in flight."""
    for job in picture.jobs.values():
        states = {row.state for row in picture.shards_of(job.id)}
        if job.paused or job.state not in UNFINISHED:
            assert not states & {"queued", "running"}, job


def assert_adds_up(picture: Picture, status: JobStatus) -> None:
    """Each text that a job has come across is counted once in its status."""
    counts = (status.done, status.failed, status.skipped, status.pending, status.truncated)
    assert min(counts) >= 0, status
    assert status.truncated <= status.done, status
    assert status.texts == len(picture.met(status.id)), status
    waiting = [row for row in picture.shards_of(status.id) if row.state in OPEN_SHARDS]
    assert status.pending == sum(row.n_contents for row in waiting), status


def assert_follows(before: Picture, after: Picture) -> None:
    """Nothing that is settled changes."""
    for key, outcome in before.outcomes.items():
        assert after.outcomes[key] == outcome or outcome[0] == "failed", (key, outcome, after.outcomes[key])
    for shard_id, row in before.shards.items():
        now = after.shards[shard_id]
        assert now.fence >= row.fence, (row, now)
        assert now.suspect >= row.suspect, (row, now)
        assert now.lapses >= row.lapses, (row, now)
        assert now == row or row.state not in {"done", "split"}, (row, now)
        assert set(after.contents[shard_id]) <= set(before.contents[shard_id]), (row, now)
    for job_id in before.jobs:
        assert before.met(job_id) <= after.met(job_id)


def assert_complete(database: Database, picture: Picture) -> None:
    """Each document of a job that is done has its one line, among the results or among the failures."""
    for job in picture.jobs.values():
        if job.state != "done":
            continue
        lines = [
            line["id"]
            for line in [*results(database, job.id), *failures(database, job.id)]
            if line.get("status") != "superseded"
        ]
        covered = picture.covered(job.id)
        assert sorted(lines) == sorted(covered), job
        assert len(covered) == job.n_documents, job
        assert set(covered.values()) <= picture.met(job.id), job
