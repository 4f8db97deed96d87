"""Mark documents that a source no longer has: they get a version that says they are gone.

So the corpus matches its source, and earlier jobs still see it as it was.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from sqlalchemy import ColumnElement, ScalarSelect, and_, func, or_, select, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import is_current_document, pages
from docmill.storage.core.schema import Document, Ingest, Job, db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import JobStopped, StorageError
from docmill.storage.ingest.changes import SeenDocuments
from docmill.storage.ingest.chunks import Versions
from docmill.storage.ingest.ingest import VERSION, store_documents
from docmill.storage.readers.registry import advise_extras
from docmill.storage.steps.jobs import UNFINISHED, OpenJob, halt, lock_corpus

PAGE = 5_000
_MOST_NAMES = 3
_MOST_PERCENT = 50.0
_CURRENT = Document.superseded_by.is_(None)
_ENDS = re.compile(r"[#:/]")  # after a file's name in a key: a record's id or number, an archive's member


class Unread:
    """Records that were rejected, and files of kinds that were left out (`left_out`, by suffix).

    `first` is the place of the first rejection, and `unknown` the place of the first rejection that may be any
    document. A source without any record `is_empty`.
    """

    def __init__(self) -> None:
        self.n_rejected = 0
        self.first: str | None = None
        self.unknown: str | None = None
        self.is_empty = False
        self.left_out: Mapping[str, int] = {}
        self._keys: set[str] = set()
        self._below: set[str] = set()

    def reject(self, place: str, keys: Collection[str] = (), below: str | None = None) -> None:
        """Note a rejection: the keys of the documents that it may be, or the file or folder that holds them."""
        self.n_rejected += 1
        self.first = self.first or place
        self._keys.update(keys)
        if below is not None:
            self._below.add(below)
        elif not keys:
            self.unknown = self.unknown or place

    def may_be_rejected(self, key: str) -> bool:
        """Return True if a rejection may be of the document with this key."""
        if self.unknown is not None or key in self._keys or key in self._below:
            return True
        return bool(self._below) and any(key[: end.start()] in self._below for end in _ENDS.finditer(key))

    def kind_left_out(self, key: str) -> str | None:
        """Return the suffix of files that were left out, if the document with this key may lie in such a file."""
        endings = {suffix for suffix in self.left_out if suffix.startswith(".")}
        names = [key, *(key[: end.start()] for end in _ENDS.finditer(key))] if endings else []
        return next((suffix for suffix in endings if any(name.endswith(suffix) for name in names)), None)


@dataclass(frozen=True)
class Missing:
    """The documents that a source had and that its reading did not see.

    Of `n_before` documents, `vanished` lie in no unread part of the source, `n_rejected` may have been rejected, and
    `n_left_out` may lie in files of a kind that was left out, by suffix.
    """

    n_before: int
    vanished: Sequence[int]
    n_rejected: int
    n_left_out: Mapping[str, int]
    names: Sequence[str] = ()  # of the first vanished ones

    @property
    def total(self) -> int:
        return len(self.vanished) + self.n_rejected + sum(self.n_left_out.values())


def prune(
    database: Database,
    job: OpenJob,
    seen: SeenDocuments,
    unread: Unread | None = None,
    *,
    most_percent: float | None = None,
    keep_rejected: bool = False,
) -> tuple[int, str | None]:
    """Mark the documents of the job's source that its complete reading did not see.

    It marks at most `most_percent` of the source's documents; None is 50. After a rejected record it marks nothing,
    or with `keep_rejected` only documents that no rejected record may be.

    Return the number of documents that were marked as vanished, and the reason if none may be. Only documents that
    were in the corpus when the reading began are considered. Doing it twice changes nothing. Raises JobStopped if the
    job was cancelled meanwhile, and StorageError if it would be more than the limit: then it stops the job.
    """
    unread = unread or Unread()
    missing = _look(database, job, seen, unread)
    reason = _explain_refusal(missing, unread, keep_rejected)
    _note(database, job, reason)
    if reason is not None:
        return 0, reason
    too_many = why_too_many(missing, _MOST_PERCENT if most_percent is None else most_percent)
    if too_many is not None:
        halt(database, job.id, too_many)
        raise StorageError(too_many)
    n = 0
    for first in range(0, len(missing.vanished), PAGE):
        page = missing.vanished[first : first + PAGE]
        n += database.write(lambda transaction, page=page: _prune_page(transaction, job, page))  # type: ignore[misc]
    return n, None


def note_missing(database: Database, job: OpenJob, seen: SeenDocuments, unread: Unread) -> str | None:
    """Note the documents that a source has lost and that stay, and return a sentence about them; None without any."""
    missing = _look(database, job, seen, unread)
    n, reason = len(missing.vanished), None
    if n:
        stay, them = ("stays", "it") if n == 1 else ("stay", "them")
        more = f" and {n - len(missing.names):,} more" if n > len(missing.names) else ""
        reason = (
            f"{_documents(n)} that the source no longer has {stay} in the corpus "
            f"({', '.join(missing.names)}{more}): read it with --prune to mark {them} as vanished"
        )
    _note(database, job, reason)
    return reason


def note_other_sources(database: Database, job: OpenJob, seen: SeenDocuments, unread: Unread) -> str | None:
    """Note that documents of other sources stay, and return a sentence about them.

    Return None if there are none, and for a source that was read before or is empty.
    """
    before = and_(Ingest.corpus_id == job.corpus_id, Ingest.id < job.ingest_id, Ingest.source == _source_of(job))
    if unread.is_empty or database.value(select(Ingest.id).where(before).limit(1)) is not None:
        return None
    there = select(Document.id, Document.key).where(*_was_there(job), _CURRENT)
    documents = chain.from_iterable(pages(database, there, Document.id, PAGE))
    names = [*islice((document.key for document in documents if document.id not in seen), _MOST_NAMES + 1)]
    if not names:
        return None
    more = " and more" if len(names) > _MOST_NAMES else ""
    reason = (
        f"Documents of other sources stay in the corpus ({', '.join(names[:_MOST_NAMES])}{more}): to leave them out, "
        "read this source into another corpus, or remove them with docmill corpus rm"
    )
    _note(database, job, reason)
    return reason


def _note(database: Database, job: OpenJob, reason: str | None) -> None:
    """Note why documents were not marked as vanished. None deletes the note of an earlier reading."""
    if reason is not None or job.rereads:
        database.execute(update(Ingest).where(Ingest.id == job.ingest_id).values(not_pruned=reason))


def _explain_refusal(missing: Missing, unread: Unread, keep_rejected: bool) -> str | None:
    """Return why nothing may be marked, as a sentence; None if nothing is missing, or if it may be marked."""
    if not missing.total:
        return None
    reason = None
    if unread.unknown is not None and keep_rejected:
        reason = f"{unread.unknown} was rejected, and its id cannot be read, so it may be any of them; repair it"
    elif unread.n_rejected and not keep_rejected:
        more = f", and {unread.n_rejected - 1:,} more" if unread.n_rejected > 1 else ""
        advice = "repair it, or mark the other missing documents with --prune-rejected keep"
        reason = f"{unread.first} was rejected{more}; {advice}"
    elif missing.n_left_out and not keep_rejected:
        files = ", ".join(f"{unread.left_out[suffix]:,} {suffix}" for suffix in sorted(missing.n_left_out))
        advice = advise_extras(missing.n_left_out) or "; mark the other missing documents with --prune-rejected keep"
        reason = f"{files} files were left out, and documents of such files are missing{advice}"
    elif unread.is_empty:
        reason = "the source has no records"
    if reason is None:
        return None
    were = "was" if missing.total == 1 else "were"
    return f"{_documents(missing.total)} that the source lacks {were} not marked as vanished: {reason}"


def why_too_many(missing: Missing, most_percent: float) -> str | None:
    """Return the sentence that says that more are missing than may be marked; None for fewer."""
    n = len(missing.vanished)
    if 100 * n <= most_percent * missing.n_before:
        return None
    share = 100 * n / missing.n_before
    return (
        f"{n:,} of the {_documents(missing.n_before)} of this source are missing, {share:.0f} %, and --prune-max "
        f"is {most_percent:g}. Nothing was marked as vanished. See if the source is whole; if it is, give "
        f"--prune-max {math.ceil(share)}."
    )


def _documents(n: int) -> str:
    return f"{n:,} document{'s' if n != 1 else ''}"


def _look(database: Database, job: OpenJob, seen: SeenDocuments, unread: Unread) -> Missing:
    """Return the documents that the job's source had when its reading began, and that the reading did not see."""
    vanished, n_rejected, left_out = array("q"), 0, Counter[str]()
    names: list[str] = []
    documents = select(Document.id, Document.key).join(Ingest, Ingest.id == Document.ingest_id)
    there = documents.where(*_of_source(job), _CURRENT)
    for document in chain.from_iterable(pages(database, there, Document.id, PAGE)):
        if document.id in seen:
            continue
        if unread.may_be_rejected(document.key):
            n_rejected += 1
        elif (suffix := unread.kind_left_out(document.key)) is not None:
            left_out[suffix] += 1
        else:
            vanished.append(document.id)
            if len(names) < _MOST_NAMES:
                names.append(document.key)
    if not vanished and not n_rejected and not left_out:
        return Missing(0, vanished, 0, left_out)
    with database.read() as transaction:
        before = and_(*_of_source(job), or_(_CURRENT, Document.superseded_by > job.last_before))
        query = select(func.count()).select_from(Document).join(Ingest, Ingest.id == Document.ingest_id)
        n_before = transaction.scalar(query.where(before)) or 0
    return Missing(n_before, vanished, n_rejected, left_out, names)


def _was_there(job: OpenJob) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for a document of the corpus that was there when the job's reading began."""
    return Document.corpus_id == job.corpus_id, Document.id <= job.last_before, ~Document.gone


def _of_source(job: OpenJob) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for a document of the job's source that was there when its reading began."""
    return *_was_there(job), Ingest.source == _source_of(job)


def _source_of(job: OpenJob) -> ScalarSelect[str]:
    return select(Ingest.source).where(Ingest.id == job.ingest_id).scalar_subquery()


def _prune_page(transaction: Transaction, job: OpenJob, ids: Sequence[int]) -> int:
    lock_corpus(transaction, job.corpus_id)
    state = transaction.scalar(select(Job.state).where(Job.id == job.id))
    if state not in {*UNFINISHED, "done"}:
        raise JobStopped(f"job {job.id} was {state}; nothing was marked as vanished")
    query = select(*VERSION).where(is_current_document())
    vanished = {row.key: row for row in transaction.probe(query, Document.id, ids)}
    if n := len(vanished):
        contents, places = ([getattr(old, name) for old in vanished.values()] for name in ("content_id", "seq"))
        store_documents(
            transaction, job, Versions([*vanished], contents, ["{}"] * n, ["[]"] * n, places), vanished, gone=True
        )
        noted = {"n_vanished": Ingest.n_vanished + n, "seen_at": db_now()}
        transaction.execute(update(Ingest).where(Ingest.id == job.ingest_id).values(**noted))
    return n
