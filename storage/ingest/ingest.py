"""Read a source into a corpus. Each transaction stores a chunk of records: contents, documents and shards together.
So work starts at once, and reading again continues an interrupted reading.

If two records of a source have one key, the last one wins. The next reading of the source meets both again. The first
must not replace the current version, only to be replaced by the second a moment later. So a record that equals a
version which lost *within one reading* changes nothing yet: it becomes a contender. A later record of the same key
removes the contender. A contender that is left at the end of the reading replaces the current version, since the
source no longer has the record that used to win.

Of two such records in one chunk only the last is stored. If a later reading meets them in two chunks, it stores both
once, and the first is a contender from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import orjson
from sqlalchemy import ColumnElement, and_, bindparam, delete, func, or_, select, update

from docmill.storage import fault_points
from docmill.storage.core import lookups
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Contender, Corpus, Document, Ingest, Job, RejectionRow, db_now
from docmill.storage.core.transaction import Columns, Transaction
from docmill.storage.errors import JobStopped, StorageError
from docmill.storage.ingest import planning
from docmill.storage.ingest.changes import KeyKinds, SeenDocuments, compare, diff_chunk
from docmill.storage.ingest.chunks import CHUNK_RECORDS, Chunk, StoredVersion, Versions, reject_earlier
from docmill.storage.ingest.planning import CorpusPosition, plan_new, sweep_page
from docmill.storage.readers import Rejection
from docmill.storage.readers.records import MAX_ID_BYTES
from docmill.storage.steps.jobs import UNFINISHED, OpenJob, lock_corpus
from docmill.storage.steps.propagation import Traversal, has_prompts


@dataclass(frozen=True)
class Counts:
    """Counts of a reading. `new` and `changed` are documents; `planned` are unique texts.

    `again` counts unchanged documents that another reading of the ingest has counted already.
    `mended` counts documents whose text had bytes or characters that cannot be stored; `mended_place` is the place of
    the first one.
    """

    records: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    again: int = 0
    repeated: int = 0
    rejected: int = 0
    vanished: int = 0
    mended: int = 0
    planned: int = 0
    mended_place: str = ""

    def __add__(self, other: Counts) -> Counts:
        numbers = [f.name for f in fields(Counts) if f.name != "mended_place"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in numbers}
        return replace(self, mended_place=self.mended_place or other.mended_place, **sums)


def add(
    database: Database,
    job: OpenJob,
    chunk: Chunk,
    rejected: Sequence[Rejection] = (),
    seen: SeenDocuments | None = None,
    kinds: KeyKinds | None = None,
) -> Counts:
    """Store one chunk of records and plan the contents that have no outcome. Storing it twice changes nothing.

    `seen` collects the stored documents that stay as they are. `kinds` rejects a record if an earlier record
    has its key in another kind, such as 1 and "1". Raises JobStopped if the job was cancelled meanwhile.
    """
    kinds = kinds or KeyKinds()
    counts, note = database.write(lambda transaction: _add(transaction, job, chunk, rejected, seen, kinds))
    note()
    return counts


def _add(
    transaction: Transaction,
    job: OpenJob,
    chunk: Chunk,
    rejected: Sequence[Rejection],
    seen: SeenDocuments | None,
    kinds: KeyKinds,
) -> tuple[Counts, Callable[[], None]]:
    """Store a chunk. Return its counts, and a function to call after the commit: it notes the kinds of the keys."""
    transaction.keep_contents()  # before the corpus, as a removal does
    lock_corpus(transaction, job.corpus_id)
    planning.lock_walk(transaction, job)
    position = _read_position(transaction, job.id)
    # PostgreSQL's statistics know nothing of a new corpus. By them any index that begins with the corpus is as
    # good as that of its keys, and PostgreSQL may read the whole corpus for each key.
    transaction.keep_key_plans()
    current = _read_current(transaction, job.corpus_id, chunk.keys)
    chunk, refused = kinds.refuse(chunk, current, job.ingest_id)
    rejected = [*rejected, *refused]
    content_ids, fresh = lookups.store_contents(transaction, dict(zip(chunk.hashes, chunk.texts, strict=True)))
    versions = chunk.versions(content_ids)
    same, differing = compare(versions, current)
    losers = _read_losers(transaction, job.corpus_id, [versions.keys[n] for n in differing], current)
    changes = diff_chunk(versions, current, losers, same, job.ingest_id)
    if seen is not None:
        seen.add(changes.kept.values())
    if len(changes.incoming) and position.state != "ingesting":
        _reopen(transaction, job)
    planned = plan_new(transaction, job, position, changes.incoming.content_ids, fresh)
    stored = store_documents(transaction, job, changes.incoming, current)
    planned += _plan_prompts(transaction, job, stored, changes.incoming)
    outdone = _note_contenders(transaction, job, chunk.keys, changes.contenders)
    earlier = {chunk.keys[n]: current[chunk.keys[n]].seq for n in changes.repeated} | outdone
    superseded = [
        reject_earlier(key, f"record {earlier[key] + 1:,} of the source", place)
        for key, place in zip(chunk.keys, chunk.places, strict=True)
        if key in earlier
    ]
    counts = Counts(
        records=chunk.n_records,
        new=changes.n_new,
        changed=changes.n_changed,
        unchanged=changes.n_unchanged,
        again=changes.n_again,
        repeated=len(changes.repeated) + len(outdone) + chunk.n_records - len(chunk.keys),
        rejected=len(rejected),
        mended=len(chunk.mended),
        planned=planned,
        mended_place=next(iter(chunk.mended), ""),
    )
    _note(transaction, job, counts, [*rejected, *chunk.superseded, *superseded])
    documents = [(document_id, chunk.kinds[n]) for n, document_id in changes.kept.items()]
    return counts, partial(kinds.note, chunk, documents, refused)


def _reopen(transaction: Transaction, job: OpenJob) -> None:
    """Reopen a job whose source was read to its end, by this command before or by another one meanwhile.

    The job covers the corpus as it stands at the end of this reading.
    """
    again = {"state": "ingesting", "last_document": None, "finished_at": None}
    transaction.execute(update(Job).where(Job.id == job.id, Job.state.in_(["running", "done"])).values(**again))
    transaction.execute(update(Ingest).where(Ingest.id == job.ingest_id).values(state="reading"))


def _read_position(transaction: Transaction, job_id: int) -> CorpusPosition:
    """Return the position of a job in its corpus, with its `state`. Raises JobStopped."""
    row = transaction.execute(_POSITION, {"job": job_id}).one_or_none()
    if row is None:
        raise JobStopped(f"job {job_id} was removed with its corpus; nothing more was added to it")
    if row.state not in {*UNFINISHED, "done"}:
        raise JobStopped(f"job {job_id} was {row.state}; nothing more was added to it")
    return row


_POSITION = select(Job.state, Job.base_document, Job.swept_to).where(Job.id == bindparam("job"))
VERSION = (  # of a StoredVersion
    *(Document.id, Document.key, Document.content_id, Document.meta),
    *(Document.flags, Document.seq, Document.gone, Document.ingest_id),
)


def _read_current(transaction: Transaction, corpus_id: int, keys: Sequence[str]) -> dict[str, StoredVersion]:
    query = select(*VERSION).where(Document.corpus_id == corpus_id, Document.superseded_by.is_(None))
    return {row.key: row for row in transaction.probe(query, Document.key, keys)}


def _read_losers(
    transaction: Transaction,
    corpus_id: int,
    keys: Sequence[str],
    current: Mapping[str, StoredVersion],
) -> dict[str, list[StoredVersion]]:
    """Return, by key, the superseded versions of the reading that also brought the current version."""
    query = select(*VERSION).where(
        Document.corpus_id == corpus_id, Document.superseded_by.is_not(None), ~Document.gone
    )
    losers: dict[str, list[StoredVersion]] = {}
    for row in transaction.probe(query, Document.key, keys):
        if row.ingest_id == current[row.key].ingest_id:
            losers.setdefault(row.key, []).append(row)
    return losers


def store_documents(
    transaction: Transaction,
    job: OpenJob,
    incoming: Versions,
    current: Mapping[str, StoredVersion],
    *,
    gone: bool = False,
) -> Sequence[int]:
    """Store documents in place of the current versions. Return their ids, or no ids if the database chose them.

    With `gone`, the new versions say that the source no longer has the documents.
    """
    n = len(incoming)
    columns: dict[str, Sequence[Any]] = {
        "corpus_id": [job.corpus_id] * n,
        "key": incoming.keys,
        "content_id": incoming.content_ids,
        "meta": incoming.metas,
        "flags": incoming.flags,
        "seq": incoming.seqs,
        "ingest_id": [job.ingest_id] * n,
        **({"gone": [True] * n} if gone else {}),
    }
    replaced, ids = [], list[int]()
    if n and (current or has_prompts(job.steps)):  # else the database chooses the ids
        ids = columns["id"] = transaction.next_ids(Document, n)
        replaced = [
            {"old": current[key].id, "new": document_id}
            for document_id, key in zip(ids, incoming.keys, strict=True)
            if key in current
        ]
    if replaced:
        transaction.execute(
            update(Document).where(Document.id == bindparam("old")).values(superseded_by=bindparam("new")), replaced
        )
    transaction.load(Document, columns)
    n_more = (0 if gone else n) - sum(key in current and not current[key].gone for key in incoming.keys)
    if n_more:
        more = update(Corpus).where(Corpus.id == job.corpus_id)
        transaction.execute(more.values(n_documents=Corpus.n_documents + n_more))
    return ids


def _plan_prompts(transaction: Transaction, job: OpenJob, stored: Sequence[int], versions: Versions) -> int:
    if not has_prompts(job.steps):
        return 0
    own = dict(zip(stored, versions.content_ids, strict=True))
    return Traversal(transaction, job.id, job.steps).plan_prompts(own)


def _note_contenders(
    transaction: Transaction, job: OpenJob, keys: Sequence[str], contending: Mapping[str, int]
) -> dict[str, int]:
    """Remove the contenders of these keys and add new ones. Return the places of those removed, by their keys."""
    mine = _are_of(job)
    forgotten: dict[str, int] = {}
    if transaction.scalar(select(Contender.key).where(mine).limit(1)) is not None:
        these = and_(mine, Contender.key.in_(keys))
        places = select(Contender.key, Document.seq).join(Document, Document.id == Contender.document_id).where(these)
        forgotten = {row.key: row.seq for row in transaction.execute(places)}
        transaction.execute(delete(Contender).where(these))
    columns: Columns = {
        "ingest_id": [job.ingest_id] * len(contending),
        "started_at": [job.started_at] * len(contending),
        "key": [*contending],
        "document_id": [*contending.values()],
    }
    transaction.load(Contender, columns)
    return forgotten


def _are_of(job: OpenJob) -> ColumnElement[bool]:
    """Return the condition for this reading's contenders."""
    return and_(Contender.ingest_id == job.ingest_id, Contender.started_at == job.started_at)


def _note(transaction: Transaction, job: OpenJob, counts: Counts, rejected: Sequence[Rejection]) -> None:
    if rejected:
        # PostgreSQL limits indexed values.
        places = [r.where.encode()[:MAX_ID_BYTES].decode(errors="ignore") for r in rejected]
        met_before = and_(RejectionRow.ingest_id == job.ingest_id, RejectionRow.place.in_(places))
        if job.adopted:
            transaction.execute(delete(RejectionRow).where(met_before))
        rows = [
            {"ingest_id": job.ingest_id, "place": place, "reason": r.reason, "superseded": r.superseded}
            for place, r in zip(places, rejected, strict=True)
        ]
        transaction.execute(transaction.insert(RejectionRow).values(noted_at=db_now()).on_conflict_do_nothing(), rows)
    if job.rereads:  # the earlier reading's counts stay until this one has ended
        counts = Counts(new=counts.new, changed=counts.changed)
    noted = {name: getattr(counts, name) for name in _NOTED} | {"unchanged": counts.unchanged - counts.again}
    transaction.execute(_ADD_COUNTS, {"ingest": job.ingest_id} | noted)


_OF_READING = ("records", "unchanged", "repeated", "rejected")
_NOTED = ("new", "changed", *_OF_READING)
_ALIVE = update(Ingest).where(Ingest.id == bindparam("ingest")).values(seen_at=db_now())
_ADD_COUNTS = _ALIVE.values(**{f"n_{name}": getattr(Ingest, f"n_{name}") + bindparam(name) for name in _NOTED})


def _replace_counts(transaction: Transaction, job: OpenJob, read: Counts) -> None:
    """Set an ingest's counts and rejections to those of this reading, which is complete.

    Earlier readings, and others that go on meanwhile, have counted, too. Raises StorageError.
    """
    if not job.rereads:
        _require_all(transaction, job, read)
    counts = {f"n_{name}": getattr(read, name) for name in _OF_READING}
    counts["n_unchanged"] = read.unchanged - read.again
    if job.rereads:
        counts["n_vanished"] = read.vanished
    transaction.execute(update(Ingest).where(Ingest.id == job.ingest_id).values(**counts))
    if job.adopted:
        no_more = or_(RejectionRow.noted_at.is_(None), RejectionRow.noted_at < job.opened_at)
        transaction.execute(delete(RejectionRow).where(RejectionRow.ingest_id == job.ingest_id, no_more))


def _require_all(transaction: Transaction, job: OpenJob, read: Counts) -> None:
    """Raise StorageError if the store has fewer records than this reading committed.

    Ignore a reading that another process continues, since its count starts anew, and a job that was cancelled.
    """
    own = (Ingest.started_at == job.started_at, Job.state == "ingesting")
    query = select(Ingest.n_records).join(Job, Job.ingest_id == Ingest.id).where(Job.id == job.id, *own)
    stored = transaction.scalar(query)
    if stored is not None and stored < read.records:
        raise StorageError(
            f"the database has lost {read.records - stored:,} records that it had stored, as after a failover to a "
            "standby that was behind; run the same command again"
        )


def end(
    database: Database,
    job: OpenJob,
    read: Counts | None = None,
    update_filters: Callable[[], None] = lambda: None,
) -> tuple[int, Counts]:
    """Finish a reading: plan the rest of the corpus, and let the job end.

    Documents of other readings are planned only now, so that nothing is computed that this source replaced. `read`
    has the counts of the whole reading. `update_filters` is called before texts are planned at steps that leave out
    documents. Return the number of documents that the job covers, and the counts of the contents planned here. Raises
    JobStopped if the job was cancelled meanwhile, and StorageError if the database has lost a part of the reading.
    """
    if read is not None:
        database.write(partial(_replace_counts, job=job, read=read))
    total, n_documents, after = 0, None, 0
    if planning.leaves_out(job):
        more = True
        while more:
            planned, more = database.write(lambda transaction: _settle(transaction, job))
            total += planned
        update_filters()
    while n_documents is None:
        n_documents, planned, after = database.write(partial(_end, job=job, after=after))
        total += planned
        fault_points.reach("swept")
    return n_documents, Counts(planned=total)


def _settle(transaction: Transaction, job: OpenJob) -> tuple[int, bool]:
    """Settle contenders, then plan other readings' documents.

    Return the number of texts that were put into shards, and True if there may be more to do.
    """
    transaction.keep_contents()  # as in `_add`
    lock_corpus(transaction, job.corpus_id)
    position = _read_position(transaction, job.id)
    planned, more = _promote_contenders(transaction, job, position), True
    if planned is None:
        planned, more = sweep_page(transaction, job, position)
        if more:
            transaction.execute(_ALIVE, {"ingest": job.ingest_id})  # a long sweep is not a reading that stopped
    if planned:  # else a job that has ended stays done, even if this command is killed
        _reopen(transaction, job)
    return planned, more


def _end(transaction: Transaction, job: OpenJob, after: int) -> tuple[int | None, int, int]:
    """Take one step towards the end. Return None for the number of documents if there may be more to do.

    `after` is the last document that was planned at steps which leave out documents. Return also the number of texts
    that were put into shards, and the new `after`.
    """
    planned, more = _settle(transaction, job)
    if more:
        return None, planned, after
    if planning.leaves_out(job):
        filtered, last_planned = planning.plan_filtered(transaction, job, after)
        planned += filtered
        if filtered:
            _reopen(transaction, job)
        if last_planned != after:
            transaction.execute(_ALIVE, {"ingest": job.ingest_id})  # a long sweep is not a reading that stopped
            return None, planned, last_planned
    # Contenders of earlier readings are out of date.
    transaction.execute(
        delete(Contender).where(Contender.ingest_id == job.ingest_id, Contender.started_at < job.started_at)
    )
    last = transaction.scalar(select(func.max(Document.id)).where(Document.corpus_id == job.corpus_id))
    n_documents = transaction.scalar(select(Corpus.n_documents).where(Corpus.id == job.corpus_id))
    assert n_documents is not None
    transaction.execute(
        update(Ingest).where(Ingest.id == job.ingest_id).values(state="read", seen_at=db_now(), finished_at=db_now())
    )
    transaction.lock_row(Job, job.id)  # no cancel comes between
    ended: dict[str, Any] = {"state": "running", "finished_at": None}
    if _read_position(transaction, job.id).state == "done":
        ended = {"state": "done", "finished_at": db_now()}
    ended |= {"last_document": last or 0, "n_documents": n_documents}
    transaction.execute(update(Job).where(Job.id == job.id).values(**ended))
    return n_documents, planned, after


def _promote_contenders(transaction: Transaction, job: OpenJob, position: CorpusPosition) -> int | None:
    """Make contenders that no later record removed the current versions.

    Return the number of texts that were put into shards; None if there is no contender.
    """
    page = transaction.execute(
        select(*VERSION)
        .join(Contender, Contender.document_id == Document.id)
        .where(_are_of(job))
        .order_by(Contender.key)
        .limit(CHUNK_RECORDS)
    ).all()
    if not page:
        return None
    planning.lock_walk(transaction, job)
    current = _read_current(transaction, job.corpus_id, [row.key for row in page])
    # A version that another reading brought meanwhile is newer and stays.
    rows = [row for row in page if row.key in current and current[row.key].ingest_id == row.ingest_id]
    rising = Versions(
        [row.key for row in rows],
        [row.content_id for row in rows],
        [orjson.dumps(row.meta).decode() for row in rows],
        [orjson.dumps(row.flags).decode() for row in rows],
        [row.seq for row in rows],
    )
    planned = plan_new(transaction, job, position, rising.content_ids)
    stored = store_documents(transaction, job, rising, current)
    planned += _plan_prompts(transaction, job, stored, rising)
    transaction.execute(delete(Contender).where(_are_of(job), Contender.key.in_([row.key for row in page])))
    settled = Counts(changed=len(rising), repeated=len(page) - len(rising))
    _note(transaction, replace(job, rereads=False), settled, ())  # `_replace_counts` came before
    return planned
