"""Garbage collection: remove contents that no root reaches, with their outcomes.

The roots are documents, with their prompts, and unfinished jobs, with the contents that their steps have met. A
content reaches the outputs of its outcomes. References alone do not count, because texts may refer to each other in a
cycle (a translation and its translation back).
Contents in open shards of unfinished jobs stay: the corpus keeps its documents, and the documents reach these
contents, since an unfinished job's outcomes are not dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from sqlalchemy import ColumnElement, and_, delete, exists, func, not_, or_, select, true, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, count_rows, pages, spec_of
from docmill.storage.core.schema import (
    Content,
    Document,
    Job,
    OutcomeRow,
    Prompt,
    SpecRow,
    Step,
    StepText,
    db_now,
)
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion.paging import PAGE, RemovalBudget, Removed, remove_items
from docmill.storage.pipelines import pipelines
from docmill.storage.steps.jobs import UNFINISHED

LOOK = 5_000  # contents or outcomes examined in one transaction


def collect(database: Database, budget: RemovalBudget | None = None) -> Removed:
    """Remove every content that nothing needs."""
    return remove_items(database, _find_loose(database), _collect_page, budget)


def _find_loose(database: Database) -> Iterator[list[int]]:
    """Yield the contents that no root has, page by page; outputs of some of them may lead to others."""
    following = select(Content.id).order_by(Content.id).limit(LOOK)
    last: int | None = 0
    while last is not None:
        with database.read() as transaction:
            transaction.prefer_indexes()
            page = transaction.scalars(following.where(Content.id > last)).all()
            loose = sorted({*page} - _find_rooted(transaction, page))
        yield loose
        last = page[-1] if len(page) == LOOK else None


def _collect_page(contents: Sequence[int], transaction: Transaction) -> Removed:
    begin(transaction)
    return collect_of(transaction, contents)


def begin(transaction: Transaction) -> None:
    """Begin a transaction that removes: keep others from referring to contents, and ids from being reused."""
    transaction.stop_references()
    transaction.keep_key_plans()
    transaction.keep_last_ids(Content)


def collect_of(transaction: Transaction, contents: Collection[int]) -> Removed:
    """Delete the contents that nothing needs, then the rows that only these contents needed."""
    total, waiting = Removed(), set(contents)
    while waiting:
        page = set(islice(waiting, PAGE))
        waiting -= page
        removed, onward = _remove(transaction, _find_unneeded(transaction, page))
        total += removed
        waiting |= onward
    return total


def _remove(transaction: Transaction, contents: set[int]) -> tuple[Removed, set[int]]:
    """Remove the outcomes of these contents, and contents that are no output. Return also where to look next."""
    if not contents:
        return Removed(), set()
    transaction.execute(delete(StepText).where(StepText.content_id.in_(contents)))
    around = delete(Prompt).where(Prompt.text_id.in_(contents)).returning(Prompt.content_id)
    rendered = {*transaction.scalars(around)}
    columns = OutcomeRow.spec_id, OutcomeRow.output_id
    computed = transaction.execute(delete(OutcomeRow).where(OutcomeRow.content_id.in_(contents)).returning(*columns))
    dropped = computed.all()
    note_dropped(transaction, {row.spec_id for row in dropped})
    outputs = [row.output_id for row in dropped]
    put_out = (
        select(OutcomeRow.spec_id).where(OutcomeRow.output_id == Content.id).offset(0).correlate(Content).exists()
    )
    gone = transaction.scalars(delete(Content).where(Content.id.in_(contents), ~put_out).returning(Content.id)).all()
    # Contents with one of these as an output are not needed either, and come next.
    origins = _find_origins(transaction, contents.difference(gone), limit=PAGE)
    onward = rendered.union(output for output in outputs if output is not None).difference(gone)
    return Removed(contents=len(gone), outcomes=len(outputs)), onward.union(*origins.values())


def note_dropped(transaction: Transaction, spec_ids: Collection[int], rule: str | None = None) -> None:
    """Note that ended jobs may lack results of these specs, or documents with one (`lineage.may_be_lost`)."""
    dropped = {"dropped_at": db_now(), "dropped_by": rule}
    transaction.execute(update(SpecRow).where(SpecRow.id.in_(sorted(spec_ids))).values(**dropped))


def count_unneeded(database: Database) -> Removed:
    """Count the contents that nothing needs, with their outcomes: `collect` removes them."""
    total = Removed()
    for loose in _find_loose(database):
        with database.read() as transaction:
            transaction.prefer_indexes()
            for first in range(0, len(loose), PAGE):
                gone = _find_unneeded(transaction, {*loose[first : first + PAGE]})
                outcomes = count_rows(transaction, OutcomeRow, OutcomeRow.content_id.in_(gone))
                total += Removed(contents=len(gone), outcomes=outcomes)
    return total


def _find_unneeded(transaction: Transaction, contents: set[int]) -> set[int]:
    """Return the contents that no root leads to."""
    needed, origins, looked_at = set[int](), dict[int, set[int]](), set[int]()
    front = contents
    while front:
        looked_at |= front
        rooted = _find_rooted(transaction, front)
        needed |= rooted
        of_front = _find_origins(transaction, front - rooted)
        origins |= of_front
        front = set[int]().union(*of_front.values()) - looked_at
    while led_to := {
        content_id for content_id, leading in origins.items() if content_id not in needed and leading & needed
    }:
        needed |= led_to
    return contents - needed


def _find_rooted(transaction: Transaction, contents: Collection[int]) -> set[int]:
    """Return the contents that a root has, or that are an output of a document's text."""
    # OFFSET 0: one look-up for each, which stops at the first row (see `Transaction.probe`).
    has_document = select(Document.id).where(Document.content_id == Content.id)
    is_met = (
        select(StepText.content_id)
        .join(Job, Job.id == StepText.job_id)
        .where(StepText.content_id == Content.id, Job.state.in_(UNFINISHED))
    )
    put_out = select(OutcomeRow.content_id).where(OutcomeRow.output_id == Content.id)
    of_document = put_out.join(Document, Document.content_id == OutcomeRow.content_id)
    is_prompt = select(Prompt.document_id).where(Prompt.content_id == Content.id)
    of_prompt = put_out.join(Prompt, Prompt.content_id == OutcomeRow.content_id)
    roots = (has_document, is_prompt, is_met, of_document, of_prompt)
    query = select(Content.id).where(or_(*(root.offset(0).correlate(Content).exists() for root in roots)))
    return {row.id for row in transaction.probe(query, Content.id, [*contents])}


def _find_origins(
    transaction: Transaction, contents: Collection[int], limit: int | None = None
) -> dict[int, set[int]]:
    """Return, by content, the contents whose output it is."""
    query = select(OutcomeRow.output_id, OutcomeRow.content_id)
    if limit is not None:
        query = query.where(OutcomeRow.output_id.in_(contents)).limit(limit)
        rows = transaction.execute(query).all() if contents else []
    else:
        rows = transaction.probe(query, OutcomeRow.output_id, [*contents])
    origins: dict[int, set[int]] = {}
    for row in rows:
        origins.setdefault(row.output_id, set()).add(row.content_id)
    return origins


@dataclass(frozen=True)
class SpecResults:
    """Results of one spec: their number, and the tokens read and written for them."""

    spec_id: int
    spec: str
    outcomes: int
    tokens_in: int
    tokens_out: int


def count_old(
    database: Database, *, older_than_s: float = 0.0, spec_ids: Collection[int] | None = None
) -> list[SpecResults]:
    """Count the results that `drop` would drop, by spec."""
    of_specs = true() if spec_ids is None else OutcomeRow.spec_id.in_(spec_ids)
    goes = and_(is_old(older_than_s), not_(is_worked_on()), of_specs)
    sums = (func.count(), func.sum(OutcomeRow.tokens_in), func.sum(OutcomeRow.tokens_out))
    counts = select(OutcomeRow.spec_id, *sums).where(goes).group_by(OutcomeRow.spec_id)
    with database.read() as transaction:
        counted = {spec_id: map(int, of_spec) for spec_id, *of_spec in transaction.execute(counts)}
        rows = transaction.execute(select(SpecRow.id, *SPEC).where(SpecRow.id.in_(counted)).order_by(SpecRow.id))
        return [SpecResults(row.id, str(spec_of(row)), *counted[row.id]) for row in rows]


def drop(
    database: Database,
    *,
    older_than_s: float = 0.0,
    spec_ids: Collection[int] | None = None,
    budget: RemovalBudget | None = None,
    needed: Callable[[Transaction], Collection[int]] = lambda _transaction: (),
    rule: str | None = None,
) -> Removed:
    """Drop old results of these specs, or of all, and then unneeded contents. Results of unfinished jobs stay.

    A dropped result is computed again when a job needs it. Each page leaves out specs that are `needed` by then, and
    notes the rule of retention by which results go.
    """

    def drop_page(spec_id: int, contents: Sequence[int], transaction: Transaction) -> Removed:
        begin(transaction)
        if spec_id in needed(transaction):
            return Removed()
        mine = and_(OutcomeRow.spec_id == spec_id, OutcomeRow.content_id.in_(contents), is_old(older_than_s))
        columns = OutcomeRow.content_id, OutcomeRow.output_id
        dropped = transaction.execute(delete(OutcomeRow).where(mine, ~is_worked_on()).returning(*columns)).all()
        loose = {row.output_id for row in dropped if row.output_id is not None}
        of_these = and_(Prompt.spec_id == spec_id, Prompt.content_id.in_([row.content_id for row in dropped]))
        loose |= {*transaction.scalars(delete(Prompt).where(of_these).returning(Prompt.content_id))}
        removed = Removed(outcomes=len(dropped)) + collect_of(transaction, loose)
        note_dropped(transaction, {spec_id} if dropped else (), rule)
        return removed

    if spec_ids is None:
        spec_ids = database.values(select(SpecRow.id))
    total, budget = Removed(), budget or RemovalBudget()
    for spec_id in sorted(spec_ids):
        old = _find_old(database, spec_id, older_than_s)
        total += remove_items(database, old, partial(drop_page, spec_id), budget)
    return total


def _find_old(database: Database, spec_id: int, older_than_s: float) -> Iterator[list[int]]:
    """Yield the contents with an old result of a spec, page by page."""
    query = select(OutcomeRow.content_id, is_old(older_than_s).label("old")).where(OutcomeRow.spec_id == spec_id)
    for page in pages(database, query, OutcomeRow.content_id, LOOK):
        yield [row.content_id for row in page if row.old]


def is_old(older_than_s: float) -> ColumnElement[bool]:
    """Return the condition for an outcome to be this old."""
    return OutcomeRow.created_at <= db_now() - older_than_s


def is_worked_on() -> ColumnElement[bool]:
    """Return the condition for an outcome that an unfinished job counts, or that a run has yet to write."""
    of_document = exists().where(
        Document.content_id == OutcomeRow.content_id, Document.corpus_id == Job.corpus_id, Step.input_step.is_(None)
    )
    of_step = exists().where(
        StepText.job_id == Step.job_id, StepText.step == Step.seq, StepText.content_id == OutcomeRow.content_id
    )
    return (
        select(Step.seq)
        .join(Job, Job.id == Step.job_id)
        .where(
            Step.spec_id == OutcomeRow.spec_id,
            or_(Job.state.in_(UNFINISHED), pipelines.holds_job()),
            or_(
                of_document.correlate(OutcomeRow, Job, Step),
                of_step.correlate(OutcomeRow, Step),
            ),
        )
        .correlate(OutcomeRow)
        .exists()
    )


def specs(database: Database, wanted: str) -> list[int]:
    """Return the specs of a number, or of KIND/MODEL (a model's name may contain a /)."""
    if wanted.isdecimal():
        which = SpecRow.id == int(wanted)
    else:
        kind, _, model = wanted.partition("/")
        which = and_(SpecRow.kind == kind, SpecRow.model == model)
    return list(database.values(select(SpecRow.id).where(which).order_by(SpecRow.id)))
