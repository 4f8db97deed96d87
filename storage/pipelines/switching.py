"""Switch a corpus from the results of one model to those of another, in one transaction, and back.

The switch is refused while a current document has no outcome under the new specs. Documents of the corpus are walked
before the transaction; in it, with the corpus locked, only those that came meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields

from sqlalchemy import select

from docmill.storage import fault_points
from docmill.storage.core import lookups
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import is_current_document
from docmill.storage.core.schema import Document, OutcomeRow
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import StorageError, TooManyLost
from docmill.storage.pipelines import views
from docmill.storage.steps import lineage, replacements, steps
from docmill.storage.steps.jobs import lock_corpus
from docmill.storage.steps.replacements import FILLING, SWITCHED, UNDONE, Replacement
from docmill.storage.steps.steps import OpenStep, StepRequest

PAGE = 2_000  # documents looked at in one transaction


@dataclass(frozen=True)
class KeptView:
    """The views of a stored pipeline over a corpus, with the steps as its file says."""

    pipeline: str
    corpus: str
    requests: tuple[StepRequest, ...]


@dataclass(frozen=True)
class Survey:
    """Counts of current documents: those with an old result, `missing` ones without a new outcome, and `lost` ones.

    A document is lost if it has an old result and no new one. `last` is the last document looked at.
    """

    documents: int = 0
    missing: int = 0
    lost: int = 0
    last: int = 0

    def __add__(self, other: Survey) -> Survey:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Survey)}
        return Survey(**sums | {"last": max(self.last, other.last)})


@dataclass(frozen=True)
class _Ways:
    """The steps of the old job, those of its backfill, and the numbers of the steps that differ or read such ones."""

    old: tuple[OpenStep, ...]
    new: tuple[OpenStep, ...]
    affected: Collection[int]

    def reversed(self) -> _Ways:
        return _Ways(self.new, self.old, self.affected)


def requests_of(database: Database, found: Replacement) -> tuple[StepRequest, ...]:
    """Return the steps of the job that a backfill copies, with the new spec. Raises StorageError if it is gone."""
    with database.read() as transaction:
        return replacements.with_specs(_requested(transaction, found), {found.old: found.new})


def survey(database: Database, found: Replacement) -> Survey:
    """Count the documents of a corpus that have old and new results, page by page."""
    return _walked(database, found, _ways)


def survey_back(database: Database, found: Replacement) -> Survey:
    """Count the documents that have new results, and those of them that have no old ones."""
    return _walked(database, found, lambda transaction, found: _ways(transaction, found).reversed())


def _walked(database: Database, found: Replacement, ways: Callable[[Transaction, Replacement], _Ways]) -> Survey:
    total = Survey()
    while True:
        with database.read() as transaction:
            page, more = _page(transaction, found, ways(transaction, found), total.last)
        total += page
        if not more:
            return total


def switch(
    database: Database,
    found: Replacement,
    looked: Survey,
    kept: Sequence[KeptView],
    most_lost: float,
) -> Survey | None:
    """Let the new spec answer, and replace these views, if no document lacks an outcome. Return the survey if so.

    `looked` is an earlier survey. `most_lost` is the share in percent of documents that may lose their result. Return
    None if documents came that have no outcome yet. Raises TooManyLost, and StorageError if the replacement was
    cancelled.
    """

    def work(transaction: Transaction) -> Survey | None:
        lock_corpus(transaction, found.corpus_id)
        total = looked
        for page in _pages(transaction, found, looked.last):
            total += page
        if total.missing:
            return None
        if total.lost > total.documents * most_lost / 100:
            raise too_many_lost(found, total, most_lost)
        if not replacements.turn(transaction, found.id, FILLING, SWITCHED):
            raise StorageError(f"migration {found.id} of the corpus {found.corpus} was cancelled meanwhile")
        fault_points.reach("switching")
        _replace_views(transaction, found, kept)
        return total

    return database.write(work)


def too_many_lost(found: Replacement, counted: Survey, most_lost: float) -> TooManyLost:
    """Return the error of a switch that would lose more results than it may."""
    share = 100 * counted.lost / counted.documents
    job = found.job_id or found.old_job_id
    return TooManyLost(
        f"{counted.lost:,} of {counted.documents:,} documents would lose their result ({share:.2g} %), and "
        f"--max-failures is {most_lost:g}. `docmill failures {job}` says why. `docmill retry {job}` and the same "
        f"command try them again; --max-failures {_above(share)} switches without them"
    )


def undo(database: Database, last: Replacement, kept: Sequence[KeptView]) -> bool:
    """Let the old spec of the last replacement answer again, and replace these views. Return False if another
    command changed the replacement first."""

    def work(transaction: Transaction) -> bool:
        lock_corpus(transaction, last.corpus_id)
        if not replacements.turn(transaction, last.id, SWITCHED, UNDONE):
            return False
        _replace_views(transaction, last, kept)
        return True

    return database.write(work)


def last_switched(found: Sequence[Replacement], corpus: str) -> Replacement:
    """Return the replacement of the corpus that can be undone. Raises StorageError if there is none."""
    for one in reversed(found):
        if one.state == FILLING:
            raise StorageError(f"a migration of {one.corpus} to {one.new.model} is under way; --cancel ends it")
        if one.state == SWITCHED:
            return one
        if one.state in replacements.IN_FORCE:
            raise StorageError(
                f"`docmill gc` removed the results of {one.old.model}; `docmill migrate {one.corpus} "
                f"--from {one.new.model} --to {one.old.model}` computes them again"
            )
    raise StorageError(f"no migration of the corpus {corpus} was switched, so there is nothing to take back")


def _above(share: float) -> str:
    """Return a percentage not below this one, in few digits."""
    return f"{min(100.0, share * 1.01 + 0.01):.2f}".rstrip("0").rstrip(".")


def _replace_views(transaction: Transaction, found: Replacement, kept: Sequence[KeptView]) -> None:
    standing = replacements.specs_in_force(replacements.of_corpus(transaction, found.corpus_id))
    for one in kept:
        requests = replacements.with_specs(one.requests, standing)
        views.replace_in(transaction, one.pipeline, one.corpus, requests)


def _requested(transaction: Transaction, found: Replacement) -> tuple[StepRequest, ...]:
    requests = steps.requested(transaction, found.old_job_id)
    if not requests and found.job_id is not None:  # runs of pipelines are forgotten after a while, with their jobs
        requests = replacements.with_specs(steps.requested(transaction, found.job_id), {found.new: found.old})
    if not requests:
        raise StorageError(
            f"job {found.old_job_id}, whose steps the migration of {found.corpus} repeats, was removed; --cancel "
            "ends the migration, and then the same command begins anew"
        )
    return requests


def _ways(transaction: Transaction, found: Replacement) -> _Ways:
    requests = _requested(transaction, found)
    old, new = (
        steps.opened(replacements.with_specs(requests, specs), lambda spec: lookups.spec_id(transaction, spec))
        for specs in ({}, {found.old: found.new})
    )
    affected = set[int]()
    for before, after in zip(old, new, strict=True):
        if before.spec_id != after.spec_id or after.input_step in affected:
            affected.add(after.seq)
    return _Ways(old, new, affected)


def _pages(transaction: Transaction, found: Replacement, after: int) -> Iterator[Survey]:
    ways, more = _ways(transaction, found), True
    while more:
        page, more = _page(transaction, found, ways, after)
        after = page.last
        yield page


def _page(transaction: Transaction, found: Replacement, ways: _Ways, after: int) -> tuple[Survey, bool]:
    """Survey the next documents. Return also if there may be more."""
    query = select(Document.id, Document.content_id).where(
        Document.corpus_id == found.corpus_id, Document.id > after, is_current_document()
    )
    rows = transaction.execute(query.order_by(Document.id).limit(PAGE)).all()
    own = {row.id: row.content_id for row in rows}
    status = (OutcomeRow.status,)
    before = lineage.outcomes(transaction, ways.old, own, status)
    now = lineage.outcomes(transaction, ways.new, own, status)
    had, missing, lost = set[int](), set[int](), set[int]()
    for seq in ways.affected:
        old = {document for document, row in before[seq].items() if row.status == "done"}
        new = {document for document, row in now[seq].items() if row.status == "done"}
        had |= old
        lost |= old - new
        missing |= lineage.given(transaction, steps.way_to(ways.new, ways.new[seq]), own).keys() - now[seq].keys()
    last = rows[-1].id if rows else after
    return Survey(len(had), len(missing), len(lost), last), len(rows) == PAGE
