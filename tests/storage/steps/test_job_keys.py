"""An idempotency key has one job, even after the job has ended."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, JobKey
from docmill.storage.deletion import gc, removal
from docmill.storage.errors import StorageError
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import IdempotencyKey, JobRequest
from tests.storage.builders import at_once, count_rows, numbered, read, request

KEY = IdempotencyKey("nightly 2026-11-28", {"the task": "embed", "--top-k": 3})


def keyed(key: IdempotencyKey = KEY, **more: Any) -> JobRequest:
    """Return a request with an idempotency key."""
    return request(key=key, **more)


def find_job(database: Database) -> tuple[int, str, int]:
    """Return the id, the state and the number of documents of the job of `KEY`."""
    keyed_job = jobs.find_by_key(database, KEY)
    assert keyed_job is not None
    job, reading = keyed_job
    assert job.ingest_id == reading.id
    return job.id, job.state, job.n_documents


@pytest.mark.parametrize("state", ["running", "done", "cancelled"])
def test_the_same_key_is_the_same_job_whatever_became_of_it(database: Database, state: str) -> None:
    n_documents = 0 if state == "done" else 3
    job = read(database, keyed(), numbered(n_documents))
    if state == "done":
        assert jobs.finish(database, job.id) == [job.id]
    elif state == "cancelled":
        jobs.cancel(database, job.id)
    gc.collect(database)
    assert find_job(database) == (job.id, state, n_documents)
    again = jobs.open_job(database, keyed())
    assert (again.id, again.adopted) == (job.id, True)
    assert jobs.require(database, job.id).state == state


def test_an_interrupted_job_is_continued_in_the_corpus_of_its_first_reading(database: Database) -> None:
    job = read(database, keyed(), numbered(10), chunk=5, stop_after=1)
    assert find_job(database) == (job.id, "ingesting", 0)
    # Standard input has another corpus each time.
    again = read(database, keyed(corpus="another"), numbered(10), chunk=5)
    assert (again.id, again.corpus_id) == (job.id, job.corpus_id)
    assert find_job(database) == (job.id, "running", 10)


def test_jobs_with_and_without_keys_are_different_jobs(database: Database) -> None:
    next_night = IdempotencyKey("nightly 2026-11-29", KEY.arguments)
    plain = jobs.open_job(database, request())
    first, second = jobs.open_job(database, keyed()), jobs.open_job(database, keyed(next_night))
    assert len({plain.id, first.id, second.id}) == 3
    assert not first.adopted


def test_a_key_with_other_arguments_is_refused_with_the_difference(database: Database) -> None:
    job = jobs.open_job(database, keyed())
    changed = IdempotencyKey(KEY.key, {"the task": "embed", "--top-k": 5, "--prompt": "x" * 500})
    with pytest.raises(StorageError) as raised:
        jobs.find_by_key(database, changed)
    message = str(raised.value)
    assert f"that of job {job.id}, which has other arguments: --top-k 3 then, 5 now; --prompt not given" in message
    assert len(message) < 300
    assert "docmill resume" not in message
    with pytest.raises(StorageError):
        jobs.open_job(database, keyed(changed, corpus="another"))
    assert count_rows(database, Job) == 1
    limited = IdempotencyKey(KEY.key, {**KEY.arguments, "--max-cost": 10.0})
    with pytest.raises(StorageError, match=rf"`docmill resume {job.id} --max-cost N` changes the cost limit"):
        jobs.find_by_key(database, limited)


@pytest.mark.parametrize("corpora", [("books", "books"), ("books", "letters")])
def test_two_commands_at_once_make_one_job(database: Database, corpora: tuple[str, str]) -> None:
    opened_jobs = at_once(*[partial(jobs.open_job, database, keyed(corpus=corpus)) for corpus in corpora * 3])
    assert len({(job.id, job.corpus_id) for job in opened_jobs}) == 1
    assert [job.adopted for job in opened_jobs].count(False) == 1
    assert count_rows(database, Job) == 1


def test_the_key_of_a_removed_job_stays_taken_and_its_arguments_are_deleted(database: Database) -> None:
    job = read(database, keyed(), numbered(0))
    jobs.finish(database, job.id)
    removal.remove_corpus(database, "books")
    with pytest.raises(StorageError, match=f"job {job.id} of the idempotency key .* was removed;"):
        jobs.find_by_key(database, KEY)
    with pytest.raises(StorageError):
        jobs.open_job(database, keyed())
    assert [tuple(row) for row in database.rows(select(JobKey.key, JobKey.arguments))] == [(KEY.key, None)]
