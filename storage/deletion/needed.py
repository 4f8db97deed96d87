"""Specs whose results are needed, however old they are, and specs whose results may go.

Results of these specs stay:

- of unfinished jobs, and of jobs whose run has yet to write its output
- of jobs that ended within the age, and of each pipeline's last run of each state
- of the latest job of each corpus with each kind of task and each choice of options, and of the latest that is done:
  a model that took the place of another has the same options, so the results of the other may go
- of migrations: both specs while the migration can be undone, later the new one; the old one if it was cancelled or
  undone
- with an index of vectors
- that features need (`dependents`), such as those with judgements
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache, partial

from sqlalchemy import ColumnElement, and_, func, or_, select, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, spec_of
from docmill.storage.core.schema import (
    Corpus,
    Job,
    OutcomeRow,
    PipelineRun,
    ReplacementRow,
    SpecRow,
    Step,
    db_now,
)
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc
from docmill.storage.deletion.paging import RemovalBudget, Removed
from docmill.storage.features import load_all
from docmill.storage.pipelines import pipelines
from docmill.storage.steps import replacements
from docmill.storage.steps.jobs import UNFINISHED
from docmill.storage.steps.replacements import DROPPED, FILLING, IN_FORCE, SWITCHED

RESULTS = "results"  # the rule of retention that a spec notes when it dropped results of it


def needed_specs(transaction: Transaction, age_s: float) -> set[int]:
    """Return the specs whose results stay, whatever their age."""
    from docmill.storage.search import pgvector_index  # with NumPy, which looking at a job does not need

    core = (
        _find_specs_of_jobs(transaction, age_s)
        | _find_specs_of_migrations(transaction)
        | {*pgvector_index.list_spec_ids(transaction)}
    )
    return core.union(*(dependent.needed_specs(transaction) for dependent in dependents()))


def _find_specs_of_jobs(transaction: Transaction, age_s: float) -> set[int]:
    """Return the specs of all steps of needed jobs. A step's results stay with those of the step that it reads."""
    last = select(func.max(PipelineRun.id)).where(PipelineRun.job_id.is_not(None))
    of_pipeline = select(PipelineRun.job_id).where(
        PipelineRun.id.in_(last.group_by(PipelineRun.pipeline_id, PipelineRun.state))
    )
    needing = or_(
        Job.state.in_(UNFINISHED),
        Job.finished_at > db_now() - age_s,
        pipelines.holds_job(),
        Job.id.in_(of_pipeline),
    )
    query = select(Step.spec_id).join(Job, Job.id == Step.job_id).where(needing)
    latest = _find_latest_jobs(transaction) | _find_latest_jobs(transaction, Job.state == "done")
    answering = transaction.probe(select(Step.spec_id), Step.job_id, latest)
    return {*transaction.scalars(query.distinct()), *(row.spec_id for row in answering)}


def _find_latest_jobs(transaction: Transaction, *conditions: ColumnElement[bool]) -> set[int]:
    """Return the jobs that answer: of specs with the same task and options, the corpus's latest job with one."""
    job_id = func.max(Job.id).label("job_id")
    query = select(Job.corpus_id, Step.spec_id, job_id).join(Step, Step.job_id == Job.id).where(*conditions)
    last = query.group_by(Job.corpus_id, Step.spec_id).subquery()
    specs = select(last.c.corpus_id, last.c.job_id, SpecRow.kind, SpecRow.params)
    rows = transaction.execute(specs.join(SpecRow, SpecRow.id == last.c.spec_id).order_by(last.c.job_id))
    jobs: dict[tuple[int, str, str], int] = {}
    for row in rows:  # a later job takes the place of an earlier one
        jobs[row.corpus_id, row.kind, json.dumps(row.params, sort_keys=True)] = row.job_id
    return {*jobs.values()}


def _find_specs_of_migrations(transaction: Transaction) -> set[int]:
    """Return both specs of migrations that can be undone, and the spec that answers after each other migration."""
    old = select(ReplacementRow.old_spec_id).where(ReplacementRow.state != DROPPED)
    new = select(ReplacementRow.new_spec_id).where(ReplacementRow.state.in_([FILLING, *IN_FORCE]))
    return {*transaction.scalars(old), *transaction.scalars(new)}


def drop_unneeded(database: Database, older_than_s: float, budget: RemovalBudget | None = None) -> Removed:
    """Drop old results of specs that nothing needs, and then the texts that nothing needs."""
    with database.read() as transaction:
        specs = unneeded_specs(transaction, older_than_s)
    still_needed = partial(needed_specs, age_s=older_than_s)  # a job may come to need one meanwhile
    return gc.drop(
        database, older_than_s=older_than_s, spec_ids=specs, budget=budget, needed=still_needed, rule=RESULTS
    )


def unneeded_specs(transaction: Transaction, older_than_s: float) -> list[int]:
    """Return the specs whose old results nothing needs, in order."""
    every = {*transaction.scalars(select(SpecRow.id))}
    return sorted(every - needed_specs(transaction, older_than_s))


def are_droppable(transaction: Transaction, older_than_s: float) -> ColumnElement[bool]:
    """Return the condition for a result that `drop_unneeded` would drop now."""
    specs = unneeded_specs(transaction, older_than_s)
    return and_(OutcomeRow.spec_id.in_(specs), gc.is_old(older_than_s), ~gc.is_worked_on())


def replaced_specs(database: Database, older_than_s: float) -> tuple[tuple[int, ...], list[str]]:
    """Return the specs that were replaced at least this long ago in every corpus with jobs that use them.

    Also return a sentence for each replaced spec that stays. It names a corpus that still has the spec.
    """
    with database.read() as transaction:
        old_enough = ReplacementRow.ended_at <= db_now() - older_than_s
        query = select(ReplacementRow.old_spec_id).where(ReplacementRow.state.in_(IN_FORCE), old_enough)
        going, staying = list[int](), list[str]()
        for spec_id in sorted({*transaction.scalars(query)}):
            corpora = _find_needing_corpora(transaction, spec_id, older_than_s)
            if corpora:
                row = transaction.execute(select(*SPEC).where(SpecRow.id == spec_id)).one()
                staying.append(f"{spec_of(row)} stays: the corpus {corpora[0]} has it")
            else:
                going.append(spec_id)
    return tuple(going), staying


def _find_needing_corpora(transaction: Transaction, spec_id: int, older_than_s: float) -> list[str]:
    """Return the corpora in which a spec was not replaced, or takes the place of another."""
    query = select(Corpus.id, Corpus.name).join(Job, Job.corpus_id == Corpus.id).join(Step, Step.job_id == Job.id)
    corpora = transaction.execute(query.where(Step.spec_id == spec_id).distinct().order_by(Corpus.id)).all()
    now = transaction.read_clock()
    needing = []
    for corpus in corpora:
        of_corpus = replacements.read_replacements(transaction, corpus.id)
        lately = any(
            spec_id == replacement.old_spec_id
            and replacement.state == SWITCHED
            and (replacement.ended_at or now) > now - older_than_s
            for replacement in of_corpus
        )
        to_be = any(replacement.state == FILLING and replacement.new_spec_id == spec_id for replacement in of_corpus)
        if lately or to_be or spec_id not in replacements.in_force(of_corpus):
            needing.append(corpus.name)
    return needing


def note_dropped(database: Database, spec_ids: Collection[int], older_than_s: float) -> tuple[int, ...]:
    """Note that the old results of these specs go, so that their replacements cannot be undone.

    Return the specs that still may go: a replacement may have been undone since `replaced_specs`.
    """

    def work(transaction: Transaction) -> tuple[int, ...]:
        mine = select(ReplacementRow.id).where(ReplacementRow.state == SWITCHED)
        transaction.execute(transaction.for_update(mine.where(ReplacementRow.old_spec_id.in_(spec_ids)))).all()
        going = tuple(
            spec_id for spec_id in spec_ids if not _find_needing_corpora(transaction, spec_id, older_than_s)
        )
        noted = update(ReplacementRow).where(ReplacementRow.old_spec_id.in_(going), ReplacementRow.state == SWITCHED)
        transaction.execute(noted.values(state=DROPPED))
        return going

    return database.write(work)


@dataclass(frozen=True)
class Dependent:
    """A feature, as deletion sees it.

    `needed_specs` returns specs whose results stay however old they are. `removing` is told of documents before they
    are removed, in the same transaction, and returns a function that is called after. `clear_corpus` deletes about
    `size` of the feature's rows of a corpus that is removed, and returns their number, 0 when none is left.
    """

    needed_specs: Callable[[Transaction], Collection[int]] = lambda _transaction: ()
    removing: Callable[[Transaction, Collection[int]], Callable[[], None]] = lambda _transaction, _ids: lambda: None
    clear_corpus: Callable[[Transaction, int, int], int] = lambda _transaction, _corpus_id, _size: 0


@cache
def dependents() -> tuple[Dependent, ...]:
    """Return the features, which are imported at the first deletion."""
    return tuple(load_all("dependents", Dependent))
