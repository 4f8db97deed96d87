"""Documents that a source had and has no more: they get a version that says they are gone.

So the corpus is as its source is, and a job of before sees it as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import orjson
from sqlalchemy import Connection, bindparam, select, update

from storage import bulk
from storage.database import Database, db_now
from storage.errors import JobStopped
from storage.jobs import UNFINISHED, OpenJob, lock_corpus
from storage.schema import Corpus, Document, Ingest, Job

PAGE = 5_000


class Seen:
    """The documents that a reading came across: a bit for each document of the store up to the last one."""

    def __init__(self) -> None:
        self._bits = np.zeros(1 << 13, np.uint8)

    def add(self, document_ids: Iterable[int]) -> None:
        ids = np.fromiter(document_ids, np.int64)
        if not len(ids):
            return
        if (needed := int(ids.max()) // 8 + 1) > len(self._bits):
            self._bits = np.concatenate([self._bits, np.zeros(max(needed, 2 * len(self._bits)), np.uint8)])
        np.bitwise_or.at(self._bits, ids >> 3, np.left_shift(1, ids & 7).astype(np.uint8))

    def __contains__(self, document_id: int) -> bool:
        place = document_id >> 3
        return place < len(self._bits) and bool(self._bits[place] >> (document_id & 7) & 1)


def prune(database: Database, job: OpenJob, seen: Seen) -> int:
    """Mark the documents of the job's source that its reading, which came to the end, did not see. Returns how many.

    Of what was in the corpus when the reading began: what another one brings meanwhile is not looked at. Doing it
    twice changes nothing. Raises JobStopped when the job was cancelled meanwhile.
    """
    total = 0
    after: int | None = 0
    while after is not None:
        n, after = database.write(partial(_page, database, job, seen, after))
        total += n
    return total


def _page(database: Database, job: OpenJob, seen: Seen, after: int, connection: Connection) -> tuple[int, int | None]:
    lock_corpus(database, connection, job.corpus_id)
    state = connection.scalar(select(Job.state).where(Job.id == job.id))
    if state not in {*UNFINISHED, "done"}:
        raise JobStopped(f"job {job.id} was {state}; nothing was marked as vanished")
    source = select(Ingest.source).where(Ingest.id == job.ingest_id).scalar_subquery()
    page = connection.execute(
        select(Document.id, Document.key, Document.content_id, Document.seq)
        .join(Ingest, Ingest.id == Document.ingest_id)
        .where(
            Document.corpus_id == job.corpus_id,
            Document.id > after,
            Document.id <= job.last_before,
            Document.superseded_by.is_(None),
            ~Document.gone,
            Ingest.source == source,
        )
        .order_by(Document.id)
        .limit(PAGE)
    ).all()
    vanished = [document for document in page if document.id not in seen]
    if vanished:
        _mark(database, connection, job, vanished)
    return len(vanished), page[-1].id if len(page) == PAGE else None


def _mark(database: Database, connection: Connection, job: OpenJob, vanished: list[Any]) -> None:
    n = len(vanished)
    ids = database.next_ids(connection, Document, n)
    replaced = [{"old": old.id, "new": new} for old, new in zip(vanished, ids, strict=True)]
    connection.execute(
        update(Document).where(Document.id == bindparam("old")).values(superseded_by=bindparam("new")), replaced
    )
    nothing, none = orjson.dumps({}).decode(), orjson.dumps([]).decode()
    columns: bulk.Columns = {
        "id": ids,
        "corpus_id": [job.corpus_id] * n,
        "key": [old.key for old in vanished],
        "content_id": [old.content_id for old in vanished],
        "meta": [nothing] * n,
        "flags": [none] * n,
        "seq": [old.seq for old in vanished],
        "ingest_id": [job.ingest_id] * n,
        "gone": [True] * n,
    }
    bulk.load(database, connection, Document, columns)
    connection.execute(update(Corpus).where(Corpus.id == job.corpus_id).values(n_documents=Corpus.n_documents - n))
    noted = {"n_vanished": Ingest.n_vanished + n, "seen_at": db_now()}
    connection.execute(update(Ingest).where(Ingest.id == job.ingest_id).values(**noted))
