"""A migration for the command line: its cost, its backfill, and the switch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from docmill.storage import fault_points
from docmill.worker import formatting
from docmill.worker.cli.printing import answer, listen, say
from docmill.worker.formatting import counted

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.storage.pipelines.switching import KeptView, Survey
    from docmill.storage.results.status import JobStatus
    from docmill.storage.steps.replacements import Replacement
    from docmill.worker.pipelines.migrating import Planned
    from docmill.worker.settings import Settings
    from docmill.worker.submit.dry_run import Forecast


def forecast(settings: Settings, database: Database, planned: Planned, device: str) -> Forecast:
    """Measure a sample of the texts, and return the cost of a migration. Stores nothing."""
    from docmill.worker.jobs.follow import ingest_bar
    from docmill.worker.pipelines.migrating import forecast_request
    from docmill.worker.submit.dry_run import forecast

    request = forecast_request(database, planned)
    listener = listen(settings)
    with listener.computing(), ingest_bar(listener, request.source) as progress:
        return forecast(settings, database, request, device, progress)


def cost_lines(planned: Planned, found: Forecast, device: str) -> list[str]:
    """Return lines about what a migration computes, and what that costs."""
    to_do = found.texts - found.done_already
    old, done = planned.old.spec, found.done_already
    lines = [
        f"Corpus {planned.corpus}: {old.kind} by {planned.new.model} in place of {old.model}",
        f"{formatting.documents(found.documents)}, {counted(found.texts, 'unique text')}; "
        f"{done:,} {'has' if done == 1 else 'have'} a result already",
    ]
    if found.sampled:
        lines.append(
            f"{to_do:,} to do: about {found.tokens_to_do:,} tokens, about {found.seconds:,.0f} device-seconds on "
            f"{device}\n({found.tokens_per_s:,.0f} tokens/s measured on {counted(found.sampled, 'text')}, "
            f"{formatting.duration(found.load_s)} to load the model)"
        )
    for name in planned.left_out:
        lines.append(f"The new model does not take the option {name.replace('_', '-')} of the old one.")
    return lines


def backfill(
    settings: Settings, database: Database, found: Replacement, devices: Sequence[str], *, by_workers: bool
) -> JobStatus:
    """Compute the documents that lack a new result, here or by the workers. Return the job's final status."""
    from docmill.storage.steps import replacements
    from docmill.worker.jobs.follow import follow, ingest_bar, say_ingested
    from docmill.worker.jobs.local_run import run_here
    from docmill.worker.pipelines.migrating import backfill_request
    from docmill.worker.stores import open_broker, queue_of
    from docmill.worker.submit.enqueue import enqueue

    def opened(job_id: int) -> None:
        replacements.note_job(database, found.id, job_id)
        fault_points.reach("backfill")

    request, listener = backfill_request(database, found), listen(settings)
    if not by_workers:
        with open_broker(settings) as broker, listener.computing():
            return run_here(settings, database, broker, devices, request, listener, on_opened=opened)
    with queue_of(settings) as broker_or_none, ingest_bar(listener, request.source, on_opened=opened) as progress:
        done = enqueue(database, lambda: broker_or_none, request, progress)
    say_ingested(listener, request.source, done)
    return follow(database, done.id, listener)


def fill(
    settings: Settings, database: Database, found: Replacement, devices: Sequence[str], *, by_workers: bool
) -> Survey:
    """Compute until no document of the corpus lacks a new result. Return the last survey.

    Documents that come meanwhile are computed by another job. Raises StorageError if a job was cancelled or stopped,
    or left texts without a result.
    """
    from docmill.storage.errors import StorageError
    from docmill.storage.pipelines.switching import survey
    from docmill.storage.steps import replacements

    before, job_id = None, found.job_id
    while True:
        looked = survey(database, found)
        # There is a job even if all is computed, for another corpus say: search and results go by jobs.
        has_ended = job_id is not None and not replacements.goes_on(database, job_id)
        if not looked.missing and has_ended:
            return looked
        if looked.missing and looked == before:
            raise StorageError(
                f"{formatting.documents(looked.missing)} {'has' if looked.missing == 1 else 'have'} no new result "
                f"after job {job_id}; `docmill status {job_id}` says more, and the same command tries again"
            )
        status = backfill(settings, database, found, devices, by_workers=by_workers)
        if status.state != "done":
            raise StorageError(
                f"job {status.id}, the backfill, is {status.state}; {found.old.model} still answers. The same "
                "command goes on"
            )
        before, job_id = looked, status.id


def switched(
    settings: Settings,
    database: Database,
    found: Replacement,
    kept: Sequence[KeptView],
    devices: Sequence[str],
    most_lost: float,
    *,
    by_workers: bool,
) -> Survey:
    """Fill what is missing, and switch in one transaction. Raises StorageError and TooManyLost."""
    from docmill.storage.pipelines import switching
    from docmill.storage.steps import replacements

    while True:
        looked = fill(settings, database, found, devices, by_workers=by_workers)
        found = replacements.reread(database, found)  # with the number of its job
        _bring_index(database, found)
        fault_points.reach("filled")
        done = switching.switch(database, found, looked, kept, most_lost)
        if done is not None:
            fault_points.reach("switched")
            return done


def _bring_index(database: Database, found: Replacement) -> None:
    """Make an index of the new vectors if the old ones have one, so that search is as fast after the switch."""
    from docmill.storage.search import pgvector_index

    if database.has_vector_indexes:
        with database.read() as transaction:
            indexed = found.old_spec_id in pgvector_index.spec_ids(transaction)
        if indexed:
            say("Making the index of the new vectors, as the old ones have one.")
            pgvector_index.add(database, found.new_spec_id)


def as_json(found: Replacement) -> dict[str, Any]:
    """Return a migration for machines."""
    return {
        "id": found.id,
        "corpus": found.corpus,
        "from": asdict(found.old),
        "to": asdict(found.new),
        "state": found.state,
        "answers": (found.new if found.state in {"switched", "dropped"} else found.old).model,
        "old_job": found.old_job_id,
        "job": found.job_id,
        "created_at": found.created_at,
        "ended_at": found.ended_at,
    }


def print_migrations(found: Sequence[Replacement]) -> None:
    """Print the migrations of a corpus, the latest first."""
    meaning = {
        "filling": "under way: the old model answers until the switch",
        "switched": "switched: the new model answers; --back takes it back",
        "dropped": "switched: the new model answers; the old results are removed",
        "cancelled": "cancelled: the old model stayed",
        "undone": "taken back: the old model answers",
    }
    for one in reversed(found):
        job = "" if one.job_id is None else f", job {one.job_id}"
        answer(f"{one.id}  {one.old.kind}: {one.old.model} to {one.new.model}{job}")
        answer(f"   {meaning[one.state]} ({formatting.local_time(one.ended_at or one.created_at)})")
