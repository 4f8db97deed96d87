"""Migrations as they are stored: their rows in `replacement`, and the steps of jobs that a migration may replace."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select, true, update

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, insert_row, spec_id, spec_of
from docmill.storage.core.schema import Job, ReplacementRow, SpecRow, Step, db_now
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import StorageError
from docmill.storage.steps.jobs import UNFINISHED, lock_corpus
from docmill.storage.steps.replacements import CANCELLED, FILLING, SpecReplacement, read_replacements


def list_all(database: Database, corpus_id: int) -> list[SpecReplacement]:
    """Return the replacements in a corpus, the oldest first."""
    with database.read() as transaction:
        return read_replacements(transaction, corpus_id)


def reread(database: Database, replacement: SpecReplacement) -> SpecReplacement:
    """Read a replacement again. Raises StorageError if it was removed with its corpus."""
    for current in list_all(database, replacement.corpus_id):
        if current.id == replacement.id:
            return current
    raise StorageError(f"the corpus {replacement.corpus} was removed, and its migration with it")


@dataclass(frozen=True)
class ReplaceableStep:
    """A step of a job over a corpus: the latest one with its spec."""

    job_id: int
    step: str
    spec_id: int
    spec: Spec

    def __str__(self) -> str:
        return f"job {self.job_id}, step {self.step}: {self.spec}"


def replaceable_steps(database: Database, corpus_id: int, job_id: int | None = None) -> list[ReplaceableStep]:
    """Return the latest step with each spec, of all jobs over a corpus or of one job. The latest comes first."""
    query = (
        select(Job.id, Step.name, Step.spec_id, *SPEC)
        .join(Step, Step.job_id == Job.id)
        .join(SpecRow, SpecRow.id == Step.spec_id)
        .where(Job.corpus_id == corpus_id, Step.escalates.is_(None), true() if job_id is None else Job.id == job_id)
        .order_by(Job.id.desc(), Step.seq)
    )
    latest: dict[tuple[int, str], ReplaceableStep] = {}
    with database.read() as transaction:
        for row in transaction.execute(query):
            latest.setdefault((row.spec_id, row.name), ReplaceableStep(row.id, row.name, row.spec_id, spec_of(row)))
    return [*latest.values()]


def begin(database: Database, corpus_id: int, old: ReplaceableStep, new: Spec) -> SpecReplacement:
    """Return the unfinished replacement of a spec by another in a corpus. Store it if there is none.

    Raises StorageError while another replacement in the corpus is unfinished.
    """

    def work(transaction: Transaction) -> SpecReplacement:
        lock_corpus(transaction, corpus_id)
        new_id = spec_id(transaction, new)
        for replacement in read_replacements(transaction, corpus_id):
            if replacement.state != FILLING:
                continue
            if (replacement.old_spec_id, replacement.new_spec_id) != (old.spec_id, new_id):
                raise StorageError(
                    f"the corpus {replacement.corpus} is being migrated from {replacement.old.model} to "
                    f"{replacement.new.model}; the same command finishes that, and `docmill migrate "
                    f"cancel {replacement.corpus}` ends it"
                )
            return replacement
        values = {"old_spec_id": old.spec_id, "new_spec_id": new_id, "old_job_id": old.job_id}
        insert_row(transaction, ReplacementRow, corpus_id=corpus_id, state=FILLING, created_at=db_now(), **values)
        return read_replacements(transaction, corpus_id)[-1]

    return database.write(work)


def note_job(database: Database, replacement_id: int, job_id: int) -> None:
    """Note the job that computes a replacement."""
    this = update(ReplacementRow).where(ReplacementRow.id == replacement_id)
    database.execute(this.values(job_id=job_id))


def is_unfinished(database: Database, job_id: int) -> bool:
    """Return True if a job has not ended."""
    return database.value(select(Job.state).where(Job.id == job_id)) in UNFINISHED


def cancel(database: Database, replacement_id: int) -> bool:
    """Cancel a replacement, so that the old spec stays. Return False if it was switched."""
    return database.write(lambda transaction: set_state(transaction, replacement_id, FILLING, CANCELLED))


def set_state(transaction: Transaction, replacement_id: int, state: str, to: str) -> bool:
    """Bring a replacement from one state to another, unless it is there. Return False if it is in a third state."""
    this = ReplacementRow.id == replacement_id
    changed = update(ReplacementRow).where(this, ReplacementRow.state == state)
    if transaction.execute(changed.values(state=to, ended_at=db_now())).rowcount:
        return True
    return transaction.scalar(select(ReplacementRow.state).where(this)) == to
