"""Reading a source into a corpus, a chunk of records a transaction: contents, documents and shards together, so
that work starts at once and a reading that was killed is carried on by reading again.

Of two records with one key the last wins. A source that has such a pair has it on every reading, and the first of
the two must not win anew each time, to lose again a moment later. So a record that equals a version which lost to
the current one *within one reading* changes nothing yet: it is noted as a contender. When a later record of the
same key comes, the note goes; when none came by the end of the reading (the line that used to win is gone from the
source), the contender takes the current version's place then. Two such records closer than a chunk never reach
the store both; where chunks fall differently the next time, one reading settles it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, delete, func, select, update

from storage.database import Database, db_now
from storage.errors import JobStopped
from storage.jobs import UNFINISHED, OpenJob, lock_corpus
from storage.planning import Place, Planned, plan_new, sweep_page
from storage.schema import Contender, Content, Corpus, Document, Ingest, Job, Rejection

CHUNK_RECORDS = 1_000


@dataclass(frozen=True)
class Incoming:
    """A record on its way in: normalised text, metadata (JSON values) and its place in the order of the source."""

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

    def __add__(self, other: Counts | Planned) -> Counts:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(other)}
        return replace(self, **sums)


@dataclass(frozen=True)
class Rejected:
    """A record that could not be read. After a `fatal` one nothing more of its file was."""

    place: str
    reason: str
    fatal: bool = False


@dataclass(frozen=True)
class _Version:
    """A document that is to be written."""

    key: str
    content_id: int
    meta: Any
    flags: list[str]
    seq: int


def sweep(database: Database, job: OpenJob) -> Counts:
    """Plan what the corpus held before this ingest and what lacks an outcome under the job's spec.

    Raises JobStopped when the job was cancelled meanwhile.
    """

    def work(connection: Connection) -> tuple[Planned, bool]:
        lock_corpus(database, connection, job.corpus_id)
        page = sweep_page(database, connection, job, _place(connection, job.id))
        _note(database, connection, job, Counts(), ())
        return page

    total = Counts()
    more = True
    while more:
        planned, more = database.write(work)
        total += planned
    return total


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
    place = _place(connection, job.id)
    last = {record.key: record for record in chunk}  # of two records with one key the last wins
    hashes = {record.key: record.sha256 for record in last.values()}
    content_ids, fresh = _store_contents(database, connection, last, hashes)
    versions = {
        key: _Version(key, content_ids[hashes[key]], _as_stored(record.meta), list(record.flags), record.seq)
        for key, record in last.items()
    }
    current = _current(database, connection, job.corpus_id, list(versions))
    differing = [version for key, version in versions.items() if not _same(current.get(key), version)]
    losers = _losers(database, connection, job.corpus_id, differing, current)
    contending = {
        version.key: loser.id
        for version in differing
        for loser in losers.get(version.key, ())
        if _same(loser, version)
    }
    incoming = [version for version in differing if version.key not in contending]
    planned = plan_new(database, connection, job, place, [version.content_id for version in incoming], fresh)
    _store_documents(database, connection, job, incoming, current)
    outdone = _note_contenders(database, connection, job, list(versions), contending)
    counts = _count(job, incoming, current)
    same = [(current[key], version) for key, version in versions.items() if _same(current.get(key), version)]
    again = sum(old.ingest_id == job.ingest_id and old.seq == new.seq for old, new in same)
    repeated = sum(old.ingest_id == job.ingest_id and old.seq != new.seq for old, new in same)
    counts += Counts(
        records=len(chunk),
        unchanged=len(same) - repeated,
        repeated=repeated + outdone + len(chunk) - len(last),
        rejected=len(rejected),
    )
    # What a reading that was cut off had stored is counted as new on the ingest already.
    _note(database, connection, job, replace(counts, unchanged=counts.unchanged - again), rejected)
    return counts + planned


def _place(connection: Connection, job_id: int) -> Place:
    row = connection.execute(select(Job.state, Job.base_document, Job.swept_to).where(Job.id == job_id)).one()
    if row.state not in {*UNFINISHED, "done"}:
        raise JobStopped(f"job {job_id} was {row.state}; nothing more was added to it")
    return Place(row.base_document, row.swept_to)


def _as_stored(meta: dict[str, Any]) -> Any:
    """Metadata as it will be read back, so that it can be compared: tuples are lists, times are strings."""
    return orjson.loads(orjson.dumps(meta)) if meta else {}


def _same(stored: Any, version: _Version) -> bool:
    return (
        stored is not None
        and stored.content_id == version.content_id
        and stored.meta == version.meta
        and stored.flags == version.flags
    )


def _count(job: OpenJob, incoming: list[_Version], current: dict[str, Any]) -> Counts:
    replaced = [(current[version.key], version) for version in incoming if version.key in current]
    repeated = sum(old.ingest_id == job.ingest_id and old.seq != new.seq for old, new in replaced)
    return Counts(new=len(incoming) - len(replaced), changed=len(replaced) - repeated, repeated=repeated)


def _store_contents(
    database: Database, connection: Connection, records: dict[str, Incoming], hashes: dict[str, bytes]
) -> tuple[dict[bytes, int], dict[int, int]]:
    """The id of every content by its hash, and {id: characters} of those that were not stored before."""
    texts = {hashes[key]: record.text for key, record in records.items()}
    known = _content_ids(connection, list(texts))
    new = [sha256 for sha256 in texts if sha256 not in known]
    if not new:
        return known, {}
    rows: list[dict[str, Any]] = [
        {"id": content_id, "sha256": sha256, "text": texts[sha256], "n_chars": len(texts[sha256])}
        for content_id, sha256 in zip(database.next_ids(connection, Content, len(new)), new, strict=True)
    ]
    if database.is_sqlite:
        database.load(connection, Content, rows)
        return known | {row["sha256"]: row["id"] for row in rows}, {row["id"]: row["n_chars"] for row in rows}
    # In the order of their hashes, so that two writers of the same texts never wait for each other in a circle.
    rows.sort(key=lambda row: row["sha256"])
    columns = [[row[name] for row in rows] for name in ("id", "sha256", "text", "n_chars")]
    made = connection.exec_driver_sql(
        "INSERT INTO content (id, sha256, text, n_chars) "
        "SELECT * FROM unnest(%s::bigint[], %s::bytea[], %s::text[], %s::bigint[]) "
        "ON CONFLICT (sha256) DO NOTHING RETURNING id, sha256, n_chars",
        tuple(columns),
    ).all()
    known |= {row.sha256: row.id for row in made}
    if others := [sha256 for sha256 in new if sha256 not in known]:  # stored by another writer since we looked
        known |= _content_ids(connection, others)
    return known, {row.id: row.n_chars for row in made}


def _content_ids(connection: Connection, hashes: list[bytes]) -> dict[bytes, int]:
    found = connection.execute(select(Content.sha256, Content.id).where(Content.sha256.in_(hashes)))
    return {row.sha256: row.id for row in found}


_VERSION = (Document.id, Document.key, Document.content_id, Document.meta, Document.flags, Document.seq)


def _current(database: Database, connection: Connection, corpus_id: int, keys: list[str]) -> dict[str, Any]:
    query = select(*_VERSION, Document.ingest_id).where(
        Document.corpus_id == corpus_id, Document.superseded_by.is_(None)
    )
    return {row.key: row for row in database.probe(connection, query, Document.__table__.c.key, keys)}


def _losers(
    database: Database, connection: Connection, corpus_id: int, differing: list[_Version], current: dict[str, Any]
) -> dict[str, list[Any]]:
    """By key: the versions that the same reading brought as the current one, and that lost."""
    query = select(*_VERSION, Document.ingest_id).where(
        Document.corpus_id == corpus_id, Document.superseded_by.is_not(None)
    )
    keys = [version.key for version in differing if version.key in current]
    losers: dict[str, list[Any]] = {}
    for row in database.probe(connection, query, Document.__table__.c.key, keys):
        if row.ingest_id == current[row.key].ingest_id:
            losers.setdefault(row.key, []).append(row)
    return losers


def _store_documents(
    database: Database, connection: Connection, job: OpenJob, incoming: list[_Version], current: dict[str, Any]
) -> None:
    ids = database.next_ids(connection, Document, len(incoming)) if incoming else []
    replaced = [
        {"old": current[version.key].id, "new": document_id}
        for document_id, version in zip(ids, incoming, strict=True)
        if version.key in current
    ]
    if replaced:
        table: Any = Document.__table__
        connection.execute(
            update(table).where(table.c.id == bindparam("old")).values(superseded_by=bindparam("new")), replaced
        )
    rows = [
        {
            "id": document_id,
            "corpus_id": job.corpus_id,
            "key": version.key,
            "content_id": version.content_id,
            "meta": version.meta,
            "flags": version.flags,
            "seq": version.seq,
            "ingest_id": job.ingest_id,
        }
        for document_id, version in zip(ids, incoming, strict=True)
    ]
    database.load(connection, Document, rows)
    if n_new := len(incoming) - len(replaced):
        connection.execute(
            update(Corpus).where(Corpus.id == job.corpus_id).values(n_documents=Corpus.n_documents + n_new)
        )


def _note_contenders(
    database: Database, connection: Connection, job: OpenJob, keys: list[str], contending: dict[str, int]
) -> int:
    """Forget what contended with these keys, note what does now. Returns how many were forgotten."""
    mine = Contender.ingest_id == job.ingest_id
    forgotten = 0
    if connection.scalar(select(Contender.key).where(mine).limit(1)) is not None:
        forgotten = connection.execute(delete(Contender).where(mine, Contender.key.in_(keys))).rowcount
    database.load(
        connection,
        Contender,
        [
            {"ingest_id": job.ingest_id, "key": key, "document_id": document_id}
            for key, document_id in contending.items()
        ],
    )
    return forgotten


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
    """The source was read to its end: the job may now finish. Returns how many documents it covers.

    Raises JobStopped when the job was cancelled meanwhile.
    """
    n_documents = None
    while n_documents is None:
        n_documents = database.write(lambda connection: _end(database, connection, job))
    return n_documents


def _end(database: Database, connection: Connection, job: OpenJob) -> int | None:
    """A step towards the end: what was held back, then what others brought meanwhile; None when there may be more."""
    lock_corpus(database, connection, job.corpus_id)
    place = _place(connection, job.id)
    if _promote_contenders(database, connection, job, place):
        return None
    _, more = sweep_page(database, connection, job, place)
    if more:
        return None
    last = connection.scalar(select(func.max(Document.id)).where(Document.corpus_id == job.corpus_id))
    n_documents = connection.scalar(select(Corpus.n_documents).where(Corpus.id == job.corpus_id))
    assert n_documents is not None
    connection.execute(
        update(Ingest).where(Ingest.id == job.ingest_id).values(state="read", seen_at=db_now(), finished_at=db_now())
    )
    connection.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(state="running", finished_at=None, last_document=last or 0, n_documents=n_documents)
    )
    return n_documents


def _promote_contenders(database: Database, connection: Connection, job: OpenJob, place: Place) -> int:
    """Let contenders that no later record outdid take the current version's place. Returns how many were left."""
    page = connection.execute(
        select(*_VERSION, Document.ingest_id)
        .join(Contender, Contender.document_id == Document.id)
        .where(Contender.ingest_id == job.ingest_id)
        .order_by(Contender.key)
        .limit(CHUNK_RECORDS)
    ).all()
    if not page:
        return 0
    current = _current(database, connection, job.corpus_id, [row.key for row in page])
    # Where another reading changed the document meanwhile, that one came later.
    rising = [
        _Version(row.key, row.content_id, row.meta, row.flags, row.seq)
        for row in page
        if row.key in current and current[row.key].ingest_id == row.ingest_id
    ]
    plan_new(database, connection, job, place, [version.content_id for version in rising])
    _store_documents(database, connection, job, rising, current)
    connection.execute(
        delete(Contender).where(Contender.ingest_id == job.ingest_id, Contender.key.in_([row.key for row in page]))
    )
    _note(database, connection, job, Counts(changed=len(rising), repeated=len(page) - len(rising)), ())
    return len(page)
