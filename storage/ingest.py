"""Reading a source into a corpus, a chunk of records a transaction: contents, documents and shards together, so
that work starts at once and a reading that was killed is carried on by reading again.

A content is planned with the first document of the corpus that has it; so each is planned once in a job, however
many documents share it, and without a table of what was planned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, update

from storage.database import Database, db_now
from storage.errors import JobStopped
from storage.jobs import UNFINISHED, OpenJob, lock_corpus, plan, visible
from storage.schema import Content, Document, Ingest, Job, OutcomeRow, Rejection

CHUNK_RECORDS = 1_000
SWEEP_DOCUMENTS = 5_000


@dataclass(frozen=True)
class Incoming:
    """A record on its way in: normalised text, its metadata and its place in the order of the source."""

    key: str
    text: str
    meta: dict[str, Any]
    flags: tuple[str, ...]
    seq: int

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.text.encode()).digest()


@dataclass(frozen=True)
class Counts:
    """What a reading found. `new` and `changed` are documents; `planned` and the `prior_*` are unique texts."""

    records: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    repeated: int = 0
    rejected: int = 0
    planned: int = 0
    prior_done: int = 0
    prior_failed: int = 0
    prior_skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Rejected:
    place: str
    reason: str


def sweep(database: Database, job: OpenJob) -> Counts:
    """Plan what the corpus held before this ingest and what lacks an outcome under the job's spec."""
    total = Counts()
    while True:
        counts, more = database.write(lambda connection: _sweep_page(connection, job))
        total += counts
        if not more:
            return total


def _sweep_page(connection: Connection, job: OpenJob) -> tuple[Counts, bool]:
    row = _require_open(connection, job.id)
    page = connection.execute(
        select(Document.id, Document.content_id)
        .where(
            visible(job.corpus_id, job.ingest_id),
            Document.id > row.swept_to,
            Document.id <= row.sweep_end,
        )
        .order_by(Document.id)
        .limit(SWEEP_DOCUMENTS)
    ).all()
    if not page:
        return Counts(), False
    first: dict[int, int] = {}
    for document in page:
        first.setdefault(document.content_id, document.id)
    seen = _seen_before(connection, job, list(first), before=page[0].id)
    counts = _plan_missing(connection, job, [content_id for content_id in first if content_id not in seen])
    connection.execute(update(Job).where(Job.id == job.id).values(swept_to=page[-1].id))
    return counts, True


def add(database: Database, job: OpenJob, chunk: Sequence[Incoming], rejected: Sequence[Rejected] = ()) -> Counts:
    """Store one chunk of records and plan what has no outcome yet. Storing it twice changes nothing.

    Raises JobStopped when the job was cancelled meanwhile.
    """
    return database.write(lambda connection: _add(database, connection, job, chunk, rejected))


def _add(
    database: Database,
    connection: Connection,
    job: OpenJob,
    chunk: Sequence[Incoming],
    rejected: Sequence[Rejected],
) -> Counts:
    lock_corpus(database, connection, job.corpus_id)
    _require_open(connection, job.id)
    last = {record.key: record for record in chunk}  # of two records with one key the last wins
    hashes = {record.key: record.sha256 for record in last.values()}
    content_ids, fresh = _store_contents(database, connection, last, hashes)
    current = {
        row.key: row
        for row in connection.execute(
            select(Document.id, Document.key, Document.content_id, Document.meta, Document.ingest_id).where(
                Document.corpus_id == job.corpus_id,
                Document.key.in_(list(last)),
                Document.superseded_by.is_(None),
            )
        )
    }
    inserted: list[tuple[Incoming, int]] = []
    superseded: list[int] = []
    unchanged = repeated = 0
    for key, record in last.items():
        content_id, old = content_ids[hashes[key]], current.get(key)
        if old is not None and old.content_id == content_id and old.meta == record.meta:
            unchanged += 1
            continue
        if old is not None:
            superseded.append(old.id)
            repeated += old.ingest_id == job.ingest_id
        inserted.append((record, content_id))
    missing = _first_of_their_content(connection, job, [content_id for _, content_id in inserted], fresh)
    _store_documents(connection, job, inserted, superseded)
    counts = _plan_missing(connection, job, missing, fresh) + Counts(
        records=len(chunk),
        new=len(inserted) - len(superseded),
        changed=len(superseded) - repeated,
        unchanged=unchanged,
        repeated=len(chunk) - len(last) + repeated,
        rejected=len(rejected),
    )
    _note(database, connection, job, counts, rejected)
    return counts


def _require_open(connection: Connection, job_id: int) -> Any:
    row = connection.execute(select(Job.state, Job.swept_to, Job.sweep_end).where(Job.id == job_id)).one()
    if row.state not in {*UNFINISHED, "done"}:
        raise JobStopped(f"job {job_id} was {row.state}; nothing more was added to it")
    return row


def _store_contents(
    database: Database, connection: Connection, records: dict[str, Incoming], hashes: dict[str, bytes]
) -> tuple[dict[bytes, int], dict[int, int]]:
    """The id of every content by its hash, and {id: characters} of those that were not stored before."""
    texts = {hashes[key]: record.text for key, record in records.items()}
    known = _content_ids(connection, list(texts))
    # In the order of their hashes, so that two writers of the same texts never wait for each other in a circle.
    new = [
        {"sha256": sha256, "text": texts[sha256], "n_chars": len(texts[sha256])}
        for sha256 in sorted(texts.keys() - known.keys())
    ]
    fresh: dict[int, int] = {}
    if new:
        made = connection.execute(
            database.insert(Content)
            .on_conflict_do_nothing(index_elements=["sha256"])
            .returning(Content.id, Content.sha256, Content.n_chars),
            new,
        ).all()
        fresh = {row.id: row.n_chars for row in made}
        known |= {row.sha256: row.id for row in made}
        if others := list(texts.keys() - known.keys()):  # stored by another writer since we looked
            known |= _content_ids(connection, others)
    return known, fresh


def _content_ids(connection: Connection, hashes: list[bytes]) -> dict[bytes, int]:
    found = connection.execute(select(Content.sha256, Content.id).where(Content.sha256.in_(hashes)))
    return {row.sha256: row.id for row in found}


def _store_documents(
    connection: Connection, job: OpenJob, inserted: list[tuple[Incoming, int]], superseded: list[int]
) -> None:
    if superseded:
        connection.execute(update(Document).where(Document.id.in_(superseded)).values(superseded_by=job.ingest_id))
    if inserted:
        connection.execute(
            Document.__table__.insert(),  # type: ignore[attr-defined]
            [
                {
                    "corpus_id": job.corpus_id,
                    "key": record.key,
                    "content_id": content_id,
                    "meta": record.meta,
                    "flags": list(record.flags),
                    "seq": record.seq,
                    "ingest_id": job.ingest_id,
                }
                for record, content_id in inserted
            ],
        )


def _first_of_their_content(
    connection: Connection, job: OpenJob, content_ids: list[int], fresh: dict[int, int]
) -> list[int]:
    """Of these contents those that no earlier document of the corpus brought into the job, each once, in order."""
    unique = list(dict.fromkeys(content_ids))
    seen = _seen_before(connection, job, [content_id for content_id in unique if content_id not in fresh])
    return [content_id for content_id in unique if content_id not in seen]


def _seen_before(connection: Connection, job: OpenJob, content_ids: list[int], before: int | None = None) -> set[int]:
    if not content_ids:
        return set()
    query = select(Document.content_id).where(
        Document.corpus_id == job.corpus_id,
        Document.content_id.in_(content_ids),
        Document.ingest_id <= job.ingest_id,
        or_(Document.superseded_by.is_(None), Document.superseded_by >= job.ingest_id),
    )
    if before is not None:
        query = query.where(Document.id < before)
    return set(connection.scalars(query.distinct()))


def _plan_missing(
    connection: Connection, job: OpenJob, content_ids: list[int], fresh: dict[int, int] | None = None
) -> Counts:
    """Plan the contents without an outcome; count the others by what became of them."""
    sizes = dict(fresh or {})
    statuses: dict[int, str] = {}
    known = [content_id for content_id in content_ids if content_id not in sizes]
    if known:
        rows = connection.execute(
            select(Content.id, Content.n_chars, OutcomeRow.status)
            .outerjoin(OutcomeRow, and_(OutcomeRow.spec_id == job.spec_id, OutcomeRow.content_id == Content.id))
            .where(Content.id.in_(known))
        )
        for row in rows:
            sizes[row.id] = row.n_chars
            if row.status is not None:
                statuses[row.id] = row.status
    missing = [(content_id, sizes[content_id]) for content_id in content_ids if content_id not in statuses]
    plan(connection, job.id, job.spec_id, job.lane, missing)
    found = [statuses[content_id] for content_id in content_ids if content_id in statuses]
    counts = Counts(
        planned=len(missing),
        prior_done=found.count("done"),
        prior_failed=found.count("failed"),
        prior_skipped=found.count("skipped"),
    )
    if found:
        connection.execute(
            update(Job)
            .where(Job.id == job.id)
            .values(
                n_prior_done=Job.n_prior_done + counts.prior_done,
                n_prior_failed=Job.n_prior_failed + counts.prior_failed,
                n_prior_skipped=Job.n_prior_skipped + counts.prior_skipped,
            )
        )
    return counts


def _note(
    database: Database, connection: Connection, job: OpenJob, counts: Counts, rejected: Sequence[Rejected]
) -> None:
    if rejected:
        rows = [{"ingest_id": job.ingest_id, "place": r.place, "reason": r.reason} for r in rejected]
        connection.execute(database.insert(Rejection).on_conflict_do_nothing(), rows)
    connection.execute(
        update(Ingest)
        .where(Ingest.id == job.ingest_id)
        .values(
            seen_at=db_now(),
            n_records=Ingest.n_records + counts.records,
            n_new=Ingest.n_new + counts.new,
            n_changed=Ingest.n_changed + counts.changed,
            n_unchanged=Ingest.n_unchanged + counts.unchanged,
            n_repeated=Ingest.n_repeated + counts.repeated,
            n_rejected=Ingest.n_rejected + counts.rejected,
        )
    )


def end(database: Database, job: OpenJob) -> int:
    """The source was read to its end: the job may now finish. Returns how many documents it covers."""

    def work(connection: Connection) -> int:
        n_documents = connection.scalar(
            select(func.count()).select_from(Document).where(visible(job.corpus_id, job.ingest_id))
        )
        assert n_documents is not None
        connection.execute(
            update(Ingest).where(Ingest.id == job.ingest_id).values(state="read", finished_at=db_now())
        )
        connection.execute(update(Job).where(Job.id == job.id).values(n_documents=n_documents))
        connection.execute(
            update(Job).where(Job.id == job.id, Job.state.in_([*UNFINISHED, "done"])).values(state="running")
        )
        return n_documents

    return database.write(work)
