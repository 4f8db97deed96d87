"""Compute what a corpus lacks by its new model, and switch to the new results in one transaction, or back.

The switch waits until every current document has an outcome under the new specs. Most documents are surveyed before
the transaction. The transaction locks the corpus, and surveys only the documents that came meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import select

from docmill.features.migrating import stored_migrations
from docmill.features.migrating.plan import MigrationPlan
from docmill.storage import fault_points
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import is_current_document
from docmill.storage.core.schema import Document, OutcomeRow
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import StorageError
from docmill.storage.pipelines import pipelines, views
from docmill.storage.readers.memory import NoSource
from docmill.storage.results.status import JobStatus
from docmill.storage.search import pgvector_index
from docmill.storage.steps import lineage, replacements, steps
from docmill.storage.steps.jobs import lock_corpus
from docmill.storage.steps.replacements import FILLING, IN_FORCE, SWITCHED, UNDONE, SpecReplacement
from docmill.storage.steps.steps import StepRequest
from docmill.worker import formatting
from docmill.worker.jobs import Listener
from docmill.worker.jobs.follow import follow, ingest_bar, say_ingested
from docmill.worker.pipelines.file import parse
from docmill.worker.pipelines.running import requests_of
from docmill.worker.settings import Settings
from docmill.worker.stores import open_broker, queue_of
from docmill.worker.submit.enqueue import enqueue
from docmill.worker.submit.options import JobOptions, ReadingOptions
from docmill.worker.submit.request import Prepared, check_corpus_name

PAGE = 2_000  # documents looked at in one transaction
PRIORITY = -100  # of a backfill: other jobs go first

Views: TypeAlias = Mapping[str, Sequence[StepRequest]]  # by the stored pipeline; the steps as its file says


class TooManyLost(StorageError):
    """A migration would cost more documents their result than --max-failures allows."""


@dataclass(frozen=True)
class Survey:
    """Counts of current documents, up to the id `last`.

    `documents` have an old result. `missing` documents have no new outcome. `lost` documents have an old result, but
    no new one.
    """

    documents: int = 0
    missing: int = 0
    lost: int = 0
    last: int = 0


def migrate(
    settings: Settings,
    database: Database,
    planned: MigrationPlan,
    devices: Sequence[str],
    most_lost: float,
    listener: Listener,
) -> tuple[SpecReplacement, Survey]:
    """Compute the missing results, and switch in one transaction. Without devices, the workers compute.

    If the corpus was switched before, compute the documents that came since. Raises StorageError and TooManyLost.
    """
    if planned.stored is not None and planned.stored.state in IN_FORCE:
        survey = fill(settings, database, planned.stored, devices, listener)
        listener.say(f"The corpus {planned.corpus} was switched to {planned.new.model} before.")
        return stored_migrations.reread(database, planned.stored), survey
    shown = find_views(settings, database, planned.corpus_id, planned.corpus, {planned.old.spec, planned.new})
    migration = stored_migrations.begin(database, planned.corpus_id, planned.old, planned.new)
    fault_points.reach("migration")
    while True:
        survey = fill(settings, database, migration, devices, listener)
        migration = stored_migrations.reread(database, migration)  # with the number of its job
        _bring_index(database, migration, listener)
        fault_points.reach("filled")
        switched = switch(database, migration, survey, shown, most_lost)
        if switched is not None:
            fault_points.reach("switched")
            return stored_migrations.reread(database, migration), switched


def find_views(
    settings: Settings, database: Database, corpus_id: int, corpus: str, specs: Collection[Spec] = ()
) -> Views:
    """Return the views of stored pipelines over a corpus that show one of these specs, or a spec of a migration.

    Raises WorkerError.
    """
    migrations = stored_migrations.list_all(database, corpus_id)
    known = {*specs, *(spec for migration in migrations for spec in (migration.old, migration.new))}
    shown = {}
    for row, _ in pipelines.every(database):
        pipeline = parse(row.text, Path(row.path))
        if pipeline.output.view and check_corpus_name(pipeline.corpus.name or pipeline.name) == corpus:
            requests = requests_of(settings, pipeline)
            if any(request.spec in known for request in requests):
                shown[pipeline.name] = requests
    return shown


def fill(
    settings: Settings, database: Database, migration: SpecReplacement, devices: Sequence[str], listener: Listener
) -> Survey:
    """Compute until no document of the corpus lacks a new result. Return the last survey.

    Documents that come meanwhile are computed by another job. Raises StorageError if a job was cancelled or stopped,
    or left texts without a result.
    """
    before, job_id = None, migration.job_id
    while True:
        survey = survey_documents(database, migration)
        # Make a job even if all results exist, say from another corpus: search and `docmill results` read jobs.
        has_ended = job_id is not None and not stored_migrations.is_unfinished(database, job_id)
        if not survey.missing and has_ended:
            return survey
        if survey.missing and survey == before:
            raise StorageError(
                f"{formatting.documents(survey.missing)} {'has' if survey.missing == 1 else 'have'} no new result "
                f"after job {job_id}; `docmill status {job_id}` says more, and the same command tries again"
            )
        status = _backfill(settings, database, migration, devices, listener)
        if status.state != "done":
            raise StorageError(
                f"job {status.id}, the backfill, is {status.state}; {migration.old.model} still answers. The same "
                "command continues"
            )
        before, job_id = survey, status.id


def _backfill(
    settings: Settings, database: Database, migration: SpecReplacement, devices: Sequence[str], listener: Listener
) -> JobStatus:
    """Compute the missing results here, or wait for the workers to compute them. Return the job's final status."""

    from docmill.worker.jobs.local_run import run_here  # with the libraries of a worker

    def opened(job_id: int) -> None:
        stored_migrations.note_job(database, migration.id, job_id)
        fault_points.reach("backfill")

    source, job = NoSource(migration.source), JobOptions(priority=PRIORITY)
    request = Prepared(ReadingOptions(), job, requests_by_new(database, migration), source, migration.corpus)
    if devices:
        with open_broker(settings) as broker, listener.computing():
            return run_here(settings, database, broker, devices, request, listener, on_opened=opened)
    with queue_of(settings) as broker_or_none, ingest_bar(listener, source, on_opened=opened) as progress:
        done = enqueue(database, broker_or_none, request, progress)
    say_ingested(listener, source, done)
    return follow(database, done.id, listener)


def _bring_index(database: Database, migration: SpecReplacement, listener: Listener) -> None:
    """Make an index of the new vectors if the old ones have one, so that search is as fast after the switch."""
    with database.read() as transaction:
        indexed = migration.old_spec_id in pgvector_index.list_spec_ids(transaction)
    if indexed:
        listener.say("Making the index of the new vectors, as the old ones have one.")
        pgvector_index.add(database, migration.new_spec_id)


def requests_by_new(database: Database, migration: SpecReplacement) -> tuple[StepRequest, ...]:
    """Return the steps of the old job with the new spec. Raises StorageError if the old job was removed."""
    with database.read() as transaction:
        return replacements.with_specs(_requests_by_old(transaction, migration), {migration.old: migration.new})


def survey_documents(database: Database, migration: SpecReplacement, *, back: bool = False) -> Survey:
    """Survey the documents of a corpus. With `back`, swap the old and the new results."""
    survey, more = Survey(), True
    while more:
        with database.read() as transaction:
            survey, more = _survey_page(transaction, migration, survey, back=back)
    return survey


def switch(
    database: Database, migration: SpecReplacement, survey: Survey, shown: Views, most_lost: float
) -> Survey | None:
    """Let the new spec answer, and replace these views. Return the whole survey, or None if outcomes are missing.

    `survey` covers the documents up to its `last`; only later documents are surveyed here. `most_lost` is the
    percentage of documents that may lose their result. Raises TooManyLost, and StorageError if the migration was
    cancelled.
    """

    def work(transaction: Transaction) -> Survey | None:
        lock_corpus(transaction, migration.corpus_id)
        total, more = survey, True
        while more:
            total, more = _survey_page(transaction, migration, total)
        if total.missing:
            return None
        if total.lost > total.documents * most_lost / 100:
            raise _too_many_lost(migration, total, most_lost)
        if not stored_migrations.set_state(transaction, migration.id, FILLING, SWITCHED):
            raise StorageError(f"migration {migration.id} of the corpus {migration.corpus} was cancelled meanwhile")
        fault_points.reach("switching")
        _replace_views(transaction, migration, shown)
        return total

    return database.write(work)


def undo(database: Database, migration: SpecReplacement, shown: Views) -> bool:
    """Let the old spec of the last migration answer again, and replace these views.

    Return False if the results of the old spec were removed meanwhile.
    """

    def work(transaction: Transaction) -> bool:
        lock_corpus(transaction, migration.corpus_id)
        if not stored_migrations.set_state(transaction, migration.id, SWITCHED, UNDONE):
            return False
        _replace_views(transaction, migration, shown)
        return True

    return database.write(work)


def last_switched(migrations: Sequence[SpecReplacement], corpus: str) -> SpecReplacement:
    """Return the migration of the corpus that can be undone. Raises StorageError if there is none."""
    for migration in reversed(migrations):
        old, new = migration.old.model, migration.new.model
        if migration.state == FILLING:
            raise StorageError(
                f"a migration of {corpus} to {new} is under way; `docmill migrate cancel {corpus}` ends it"
            )
        if migration.state == SWITCHED:
            return migration
        if migration.state in IN_FORCE:
            raise StorageError(
                f"`docmill gc` removed the results of {old}; `docmill migrate run {corpus} --from {new} --to {old}` "
                "computes them again"
            )
    raise StorageError(f"no migration of the corpus {corpus} was switched, so there is nothing to take back")


def _too_many_lost(migration: SpecReplacement, survey: Survey, most_lost: float) -> TooManyLost:
    share = 100 * survey.lost / survey.documents
    enough = f"{min(100.0, share * 1.01 + 0.01):.2f}".rstrip("0").rstrip(".")  # not below the share, in few digits
    job = migration.job_id or migration.old_job_id
    return TooManyLost(
        f"{survey.lost:,} of {survey.documents:,} documents would lose their result ({share:.3g} %), and "
        f"--max-failures is {most_lost:g}. `docmill failures {job}` says why. `docmill retry {job}` and the same "
        f"command try them again; --max-failures {enough} switches without them"
    )


def _replace_views(transaction: Transaction, migration: SpecReplacement, shown: Views) -> None:
    standing = replacements.specs_in_force(replacements.read_replacements(transaction, migration.corpus_id))
    for pipeline, requests in shown.items():
        views.replace_in(transaction, pipeline, migration.corpus, replacements.with_specs(requests, standing))


def _requests_by_old(transaction: Transaction, migration: SpecReplacement) -> tuple[StepRequest, ...]:
    requests = steps.read_requests(transaction, migration.old_job_id)
    if not requests and migration.job_id is not None:  # runs of pipelines are forgotten in time, with their jobs
        backfill = steps.read_requests(transaction, migration.job_id)
        requests = replacements.with_specs(backfill, {migration.new: migration.old})
    if not requests:
        corpus = migration.corpus
        raise StorageError(
            f"job {migration.old_job_id}, whose steps the migration of {corpus} repeats, was removed; `docmill "
            f"migrate cancel {corpus}` ends the migration, and then the same command begins anew"
        )
    return requests


def _survey_page(
    transaction: Transaction, migration: SpecReplacement, survey: Survey, *, back: bool = False
) -> tuple[Survey, bool]:
    """Return the survey with the next documents, and True if there may be more documents."""
    requests = _requests_by_old(transaction, migration)
    before, after = (
        steps.open_steps(transaction, replacements.with_specs(requests, specs))
        for specs in ({}, {migration.old: migration.new})
    )
    if back:
        before, after = after, before
    query = select(Document.id, Document.content_id).where(
        Document.corpus_id == migration.corpus_id, Document.id > survey.last, is_current_document()
    )
    rows = transaction.execute(query.order_by(Document.id).limit(PAGE)).all()
    own = {row.id: row.content_id for row in rows}
    status = (OutcomeRow.status,)
    outcomes_before = lineage.read_outcomes(transaction, before, own, status)
    outcomes_after = lineage.read_outcomes(transaction, after, own, status)
    affected, had, missing, lost = set[int](), set[int](), set[int](), set[int]()
    for step_before, step in zip(before, after, strict=True):
        if step_before.spec_id == step.spec_id and step.input_step not in affected:
            continue
        affected.add(step.seq)
        done_before = {document for document, row in outcomes_before[step.seq].items() if row.status == "done"}
        done_after = {document for document, row in outcomes_after[step.seq].items() if row.status == "done"}
        had |= done_before
        lost |= done_before - done_after
        inputs = lineage.read_inputs(transaction, steps.find_way(after, step), own)
        missing |= inputs.keys() - outcomes_after[step.seq].keys()
    counts = survey.documents + len(had), survey.missing + len(missing), survey.lost + len(lost)
    return Survey(*counts, rows[-1].id if rows else survey.last), len(rows) == PAGE
