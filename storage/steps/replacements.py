"""Specs that replace others in a corpus, and the spec that answers for a corpus before and after the switch.

Until the switch the old spec answers, and jobs with the new one count for nothing. After the switch the new spec
answers for every job with the old one, whenever the job was made: a scheduled run may still compute the old spec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, find_corpus, find_first_existing, spec_of
from docmill.storage.core.schema import Corpus, Job, ReplacementRow, SpecRow, Step
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import NotFound
from docmill.storage.steps.steps import StepRequest, compute_same_prompts

FILLING, SWITCHED, DROPPED, CANCELLED, UNDONE = "filling", "switched", "dropped", "cancelled", "undone"
_BACKFILL = "migration "
IN_FORCE = frozenset({SWITCHED, DROPPED})


@dataclass(frozen=True)
class SpecReplacement:
    """A row of `storage.core.schema`, with both specs and the name of the corpus."""

    id: int
    corpus_id: int
    corpus: str
    old_spec_id: int
    new_spec_id: int
    old: Spec
    new: Spec
    old_job_id: int
    job_id: int | None
    state: str
    created_at: float
    ended_at: float | None

    @property
    def source(self) -> str:
        """The name under which the jobs of its backfill are listed."""
        return f"{_BACKFILL}{self.id}: {self.old.model} to {self.new.model}"


def is_backfill(source: str) -> bool:
    """Return True for the source of a backfill. Other sources are URLs, absolute paths and names without a number."""
    return source.startswith(_BACKFILL)


def in_force(replacements: Sequence[SpecReplacement]) -> dict[int, int]:
    """Return, by replaced spec, the spec in its place. `replacements` are a corpus's, the oldest first."""
    standing: dict[int, int] = {}
    for replacement in replacements:
        if replacement.state in IN_FORCE:
            standing = {
                old: replacement.new_spec_id if new == replacement.old_spec_id else new
                for old, new in standing.items()
            }
            standing[replacement.old_spec_id] = replacement.new_spec_id
            standing.pop(replacement.new_spec_id, None)
    return standing


def find_answering_spec(replacements: Sequence[SpecReplacement], spec_id: int, created_at: float) -> int:
    """Return the spec that answers in place of the spec of a job, which was made at `created_at`.

    If a replacement is not in force, its old spec answers in place of the new one: while the backfill goes on, and
    for jobs that were made before it was cancelled or undone.
    """
    for replacement in reversed(replacements):
        before_its_end = replacement.ended_at is None or created_at <= replacement.ended_at
        if replacement.new_spec_id == spec_id and replacement.state not in IN_FORCE and before_its_end:
            spec_id = replacement.old_spec_id
    return in_force(replacements).get(spec_id, spec_id)


def find_dropped_specs(replacements: Sequence[SpecReplacement]) -> dict[int, float]:
    """Return, by replaced spec whose results `docmill gc` may have removed, the time of the switch."""
    standing = in_force(replacements)
    return {
        replacement.old_spec_id: replacement.ended_at or replacement.created_at
        for replacement in replacements
        if replacement.state == DROPPED and replacement.old_spec_id in standing
    }


def read_replacements(transaction: Transaction, corpus_id: int) -> list[SpecReplacement]:
    """Return the replacements in a corpus, the oldest first."""
    table = ReplacementRow
    columns = (table.id, table.corpus_id, Corpus.name, table.old_spec_id, table.new_spec_id)
    rows = transaction.execute(
        select(*columns, table.old_job_id, table.job_id, table.state, table.created_at, table.ended_at)
        .join(Corpus, Corpus.id == table.corpus_id)
        .where(table.corpus_id == corpus_id)
        .order_by(table.id)
    ).all()
    wanted = sorted({spec_id for row in rows for spec_id in (row.old_spec_id, row.new_spec_id)})
    specs = {
        row.id: spec_of(row) for row in transaction.execute(select(SpecRow.id, *SPEC).where(SpecRow.id.in_(wanted)))
    }
    return [
        SpecReplacement(id_, corpus, name, old, new, specs[old], specs[new], *others)
        for id_, corpus, name, old, new, *others in rows
    ]


def substitute_specs(database: Database, corpus: str, requests: Sequence[StepRequest]) -> tuple[StepRequest, ...]:
    """Return steps over a corpus with the specs that replace theirs."""
    with database.read() as transaction:
        corpus_id = transaction.scalar(select(Corpus.id).where(Corpus.name == corpus))
        replacements = [] if corpus_id is None else read_replacements(transaction, corpus_id)
    return with_specs(requests, specs_in_force(replacements))


def specs_in_force(replacements: Sequence[SpecReplacement]) -> dict[Spec, Spec]:
    """Return `in_force` with specs in place of their ids."""
    named: dict[int, Spec] = {}
    for replacement in replacements:
        named |= {replacement.old_spec_id: replacement.old, replacement.new_spec_id: replacement.new}
    return {named[old]: named[new] for old, new in in_force(replacements).items()}


def with_specs(requests: Sequence[StepRequest], specs: Mapping[Spec, Spec]) -> tuple[StepRequest, ...]:
    """Return steps with their specs replaced.

    An escalation is left out if it has the same spec, or would compute other prompts.
    """
    changed = []
    for request in requests:
        spec = specs.get(request.spec, request.spec)
        escalation = request.escalation if request.escalation and request.escalation.spec != spec else None
        if escalation is not None and not compute_same_prompts(spec, escalation.spec):
            escalation = None
        changed.append(replace(request, spec=spec, escalation=escalation))
    return tuple(changed)


def find_answering_job(database: Database, names: Sequence[str]) -> int:
    """Return the job that answers for the corpus with the first of these names.

    It is the latest job, or a job with the specs that answer in place of the latest job's. Raises NotFound.
    """
    corpus_id = find_corpus(database, find_first_existing(database, names))
    query = select(Job.id, Job.created_at, Step.spec_id).join(Step, Step.job_id == Job.id)
    with database.read() as transaction:
        replacements = read_replacements(transaction, corpus_id)
        rows = transaction.execute(
            query.where(Job.corpus_id == corpus_id, Step.escalates.is_(None)).order_by(Job.id.desc(), Step.seq)
        ).all()
    if not rows:
        raise NotFound(f"no job has run over the corpus {names[0]}; `docmill jobs` lists the jobs")
    specs: dict[int, tuple[int, ...]] = {}
    for row in rows:
        specs[row.id] = (*specs.get(row.id, ()), row.spec_id)
    latest, created_at = rows[0].id, rows[0].created_at
    wanted = tuple(find_answering_spec(replacements, spec_id, created_at) for spec_id in specs[latest])
    return next((job_id for job_id, has in specs.items() if has == wanted), latest)


def describe_replacement(database: Database, job_id: int) -> str | None:
    """Return a remark on a job that is a migration's backfill, or whose results were replaced; None for others."""
    with database.read() as transaction:
        corpus_id = transaction.scalar(select(Job.corpus_id).where(Job.id == job_id))
        replacements = [] if corpus_id is None else read_replacements(transaction, corpus_id)
        specs = {*transaction.scalars(select(Step.spec_id).where(Step.job_id == job_id))}
    for replacement in reversed(replacements):
        change = f"from {replacement.old.model} to {replacement.new.model}"
        if replacement.job_id == job_id:
            return f"the backfill {change}: {replacement.state}"
        if replacement.old_spec_id in specs and replacement.state in {FILLING, *IN_FORCE}:
            return f"{change}: {replacement.state}; docmill migrate status {replacement.corpus}"
    return None
