"""Idempotency keys of jobs: the same key returns the same job, even if the job has ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Ingest, Job, JobKey, db_now
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import DatabaseBusy, StorageError

_SHOWN_CHARS = 60  # of a value in a message
_NOT_GIVEN = "not given"


@dataclass(frozen=True)
class IdempotencyKey:
    """A key, and the arguments that were given with it: JSON values by the names that a message shows."""

    key: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class KeyedJob:
    """The job of a key, and its reading. `is_read` says that nothing more is to be read for it."""

    id: int
    state: str
    documents: int
    ingest: Ingest

    @property
    def corpus_id(self) -> int:
        return self.ingest.corpus_id

    @property
    def is_read(self) -> bool:
        return self.state != "ingesting"


def find(database: Database, key: IdempotencyKey) -> KeyedJob | None:
    """Return the job of a key; None if it has none yet. Raises StorageError."""
    with database.read() as transaction:
        return job_of(transaction, key)


def job_of(transaction: Transaction, key: IdempotencyKey) -> KeyedJob | None:
    """Return the job of a key; None if it has none yet.

    Raises StorageError if the key came with other arguments before, or if its job was removed.
    """
    row = transaction.execute(select(JobKey).where(JobKey.key == key.key)).one_or_none()
    if row is None:
        return None
    query = select(Job.state.label("job_state"), Job.n_documents, Ingest).join(Ingest, Ingest.id == Job.ingest_id)
    job = transaction.execute(query.where(Job.id == row.job_id)).one_or_none()
    if job is None:
        raise StorageError(
            f"job {row.job_id} of the idempotency key {key.key} was removed with its corpus; give another key to "
            "store the documents again"
        )
    if said := _differences(row.arguments or {}, key.arguments):
        raise StorageError(
            f"the idempotency key {key.key} is that of job {row.job_id}, which has other arguments: "
            f"{'; '.join(said)}. Give the same arguments, or another key"
        )
    return KeyedJob(row.job_id, job.job_state, job.n_documents, Ingest.of(job))


def note(transaction: Transaction, key: IdempotencyKey, job_id: int) -> None:
    """Store the key of a new job. Raises DatabaseBusy if another transaction stored it since this one looked."""
    row = {"key": key.key, "job_id": job_id, "arguments": dict(key.arguments), "created_at": db_now()}
    added = transaction.insert(JobKey).values(**row).on_conflict_do_nothing().returning(JobKey.key)
    if transaction.execute(added).first() is None:
        raise DatabaseBusy(f"another command stores the idempotency key {key.key}")


def forget_arguments(transaction: Transaction, job_ids: Collection[int]) -> None:
    """Delete the arguments of jobs that are removed. The keys stay."""
    transaction.execute(update(JobKey).where(JobKey.job_id.in_(job_ids)).values(arguments=None))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name} {_shown(before, name)} then, {_shown(now, name)} now" for name in names]


def _shown(arguments: Mapping[str, Any], name: str) -> str:
    if name not in arguments:
        return _NOT_GIVEN
    text = " ".join(str(arguments[name]).split())
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} …"
