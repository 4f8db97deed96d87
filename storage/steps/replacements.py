"""Specs that take the place of others in a corpus: the spec that answers for a corpus, before and after the switch.

Until the switch the old spec answers, and jobs with the new one count for nothing. After the switch the new spec
answers for every job with the old one, whenever the job was made: a scheduled run may still compute the old spec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select, true, update

from docmill.storage.core import lookups
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, find_corpus, first_existing, insert_row, spec_of
from docmill.storage.core.schema import Corpus, Job, ReplacementRow, SpecRow, Step, db_now
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import NotFound, StorageError
from docmill.storage.steps.jobs import UNFINISHED, lock_corpus
from docmill.storage.steps.steps import StepRequest

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


def answering(replacements: Sequence[SpecReplacement], spec_id: int, created_at: float) -> int:
    """Return the spec that answers in place of that of a job, which was made at this time.

    The new spec of a replacement that is not in force has the old one in its place: while the backfill goes on, and
    for jobs from before it was cancelled or undone.
    """
    for replacement in reversed(replacements):
        before_its_end = replacement.ended_at is None or created_at <= replacement.ended_at
        if replacement.new_spec_id == spec_id and replacement.state not in IN_FORCE and before_its_end:
            spec_id = replacement.old_spec_id
    return in_force(replacements).get(spec_id, spec_id)


def dropped(replacements: Sequence[SpecReplacement]) -> dict[int, float]:
    """Return, by replaced spec whose results `docmill gc` may have removed, the time of the switch."""
    standing = in_force(replacements)
    return {
        replacement.old_spec_id: replacement.ended_at or replacement.created_at
        for replacement in replacements
        if replacement.state == DROPPED and replacement.old_spec_id in standing
    }


def of_corpus(transaction: Transaction, corpus_id: int) -> list[SpecReplacement]:
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


def every(database: Database, corpus_id: int) -> list[SpecReplacement]:
    """Return the replacements in a corpus, the oldest first."""
    with database.read() as transaction:
        return of_corpus(transaction, corpus_id)


def reread(database: Database, replacement: SpecReplacement) -> SpecReplacement:
    """Return a replacement as it stands now. Raises StorageError if it was removed with its corpus."""
    for current in every(database, replacement.corpus_id):
        if current.id == replacement.id:
            return current
    raise StorageError(f"the corpus {replacement.corpus} was removed, and its migration with it")


def substituted(database: Database, corpus: str, requests: Sequence[StepRequest]) -> tuple[StepRequest, ...]:
    """Return steps over a corpus with the specs that are in the place of theirs."""
    with database.read() as transaction:
        corpus_id = transaction.scalar(select(Corpus.id).where(Corpus.name == corpus))
        replacements = [] if corpus_id is None else of_corpus(transaction, corpus_id)
    return with_specs(requests, specs_in_force(replacements))


def specs_in_force(replacements: Sequence[SpecReplacement]) -> dict[Spec, Spec]:
    """Return `in_force` with specs for their numbers."""
    named: dict[int, Spec] = {}
    for replacement in replacements:
        named |= {replacement.old_spec_id: replacement.old, replacement.new_spec_id: replacement.new}
    return {named[old]: named[new] for old, new in in_force(replacements).items()}


def with_specs(requests: Sequence[StepRequest], specs: Mapping[Spec, Spec]) -> tuple[StepRequest, ...]:
    """Return steps with other specs in the place of some. An escalation to the same spec is left out."""
    changed = []
    for request in requests:
        spec = specs.get(request.spec, request.spec)
        escalation = request.escalation if request.escalation and request.escalation.spec != spec else None
        changed.append(replace(request, spec=spec, escalation=escalation))
    return tuple(changed)


@dataclass(frozen=True)
class Candidate:
    """A step of a job over a corpus: the latest one with its spec."""

    job_id: int
    step: str
    spec_id: int
    spec: Spec

    def __str__(self) -> str:
        return f"job {self.job_id}, step {self.step}: {self.spec}"


def candidates(database: Database, corpus_id: int, job_id: int | None = None) -> list[Candidate]:
    """Return the latest step with each spec that jobs over a corpus have, or that one of them, the latest first."""
    query = (
        select(Job.id, Step.name, Step.spec_id, *SPEC)
        .join(Step, Step.job_id == Job.id)
        .join(SpecRow, SpecRow.id == Step.spec_id)
        .where(Job.corpus_id == corpus_id, Step.escalates.is_(None), true() if job_id is None else Job.id == job_id)
        .order_by(Job.id.desc(), Step.seq)
    )
    latest: dict[tuple[int, str], Candidate] = {}
    with database.read() as transaction:
        for row in transaction.execute(query):
            latest.setdefault((row.spec_id, row.name), Candidate(row.id, row.name, row.spec_id, spec_of(row)))
    return [*latest.values()]


def begin(database: Database, corpus_id: int, old: Candidate, new: Spec) -> SpecReplacement:
    """Return the unfinished replacement of a spec by another in a corpus, which is stored if there is none.

    Raises StorageError while another replacement in the corpus is unfinished.
    """

    def work(transaction: Transaction) -> SpecReplacement:
        lock_corpus(transaction, corpus_id)
        new_id = lookups.spec_id(transaction, new)
        for replacement in of_corpus(transaction, corpus_id):
            if replacement.state != FILLING:
                continue
            if (replacement.old_spec_id, replacement.new_spec_id) != (old.spec_id, new_id):
                raise StorageError(
                    f"the corpus {replacement.corpus} is being migrated from {replacement.old.model} to "
                    f"{replacement.new.model}; the same command finishes that, and `docmill migrate "
                    f"cancel {replacement.corpus}` ends it"
                )
            return replacement
        made = {"old_spec_id": old.spec_id, "new_spec_id": new_id, "old_job_id": old.job_id}
        insert_row(transaction, ReplacementRow, corpus_id=corpus_id, state=FILLING, created_at=db_now(), **made)
        return of_corpus(transaction, corpus_id)[-1]

    return database.write(work)


def note_job(database: Database, replacement_id: int, job_id: int) -> None:
    """Note the job that computes a replacement."""
    this = update(ReplacementRow).where(ReplacementRow.id == replacement_id)
    database.execute(this.values(job_id=job_id))


def goes_on(database: Database, job_id: int) -> bool:
    """Return True if a job has not ended."""
    return database.value(select(Job.state).where(Job.id == job_id)) in UNFINISHED


def cancel(database: Database, replacement_id: int) -> bool:
    """Cancel a replacement, so that the old spec stays. Return False if it was switched or had ended."""
    return database.write(lambda transaction: turn(transaction, replacement_id, FILLING, CANCELLED))


def turn(transaction: Transaction, replacement_id: int, state: str, to: str) -> bool:
    """Bring a replacement from one state to another. Return False if it is in a third one."""
    this = update(ReplacementRow).where(ReplacementRow.id == replacement_id, ReplacementRow.state == state)
    return transaction.execute(this.values(state=to, ended_at=db_now())).rowcount > 0


def answering_job(database: Database, names: Sequence[str]) -> int:
    """Return the job that answers for the corpus with the first of these names: the latest, or one in its place.

    That one has the specs that answer in place of those of the latest. Raises NotFound.
    """
    corpus_id = find_corpus(database, first_existing(database, names))
    query = select(Job.id, Job.created_at, Step.spec_id).join(Step, Step.job_id == Job.id)
    with database.read() as transaction:
        replacements = of_corpus(transaction, corpus_id)
        rows = transaction.execute(
            query.where(Job.corpus_id == corpus_id, Step.escalates.is_(None)).order_by(Job.id.desc(), Step.seq)
        ).all()
    if not rows:
        raise NotFound(f"no job has run over the corpus {names[0]}; `docmill jobs` lists the jobs")
    specs: dict[int, tuple[int, ...]] = {}
    for row in rows:
        specs[row.id] = (*specs.get(row.id, ()), row.spec_id)
    latest, created_at = rows[0].id, rows[0].created_at
    wanted = tuple(answering(replacements, spec_id, created_at) for spec_id in specs[latest])
    return next((job_id for job_id, has in specs.items() if has == wanted), latest)


def remark(database: Database, job_id: int) -> str | None:
    """Return what a migration has to do with a job: as its backfill, or since its results were replaced."""
    with database.read() as transaction:
        corpus_id = transaction.scalar(select(Job.corpus_id).where(Job.id == job_id))
        replacements = [] if corpus_id is None else of_corpus(transaction, corpus_id)
        specs = {*transaction.scalars(select(Step.spec_id).where(Step.job_id == job_id))}
    for replacement in reversed(replacements):
        change = f"from {replacement.old.model} to {replacement.new.model}"
        if replacement.job_id == job_id:
            return f"the backfill {change}: {replacement.state}"
        if replacement.old_spec_id in specs and replacement.state in {FILLING, *IN_FORCE}:
            return f"{change}: {replacement.state}; docmill migrate status {replacement.corpus}"
    return None
