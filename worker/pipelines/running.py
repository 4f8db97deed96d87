"""A pipeline becomes a job: here by hand, or on a worker when it is due."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from storage.database import Database
from storage.errors import DatabaseBusy, DatabaseUnreachable, FolderBusy, StorageError
from storage.export import parts
from storage.export.results import export_rows
from storage.flow import pipelines
from storage.flow.pipelines import Run
from storage.flow.steps import StepRequest
from storage.jobs import OpenJob
from storage.readers import open_source
from storage.status import JobStatus, read_status
from storage.writers import Target
from tasks.errors import HubUnreachable, TaskError
from worker.broker import Broker
from worker.enqueue import Prepared, Progress, Request, enqueue, reading, spec_of, storable
from worker.errors import WorkerError
from worker.pipelines.file import DOCUMENT, Pipeline, PipelineInvalid, Step, parse
from worker.rehearsal import require_possible
from worker.settings import Settings

log = logging.getLogger("docmill.pipelines")


def prepare(settings: Settings, pipeline: Pipeline, *, download: bool = False) -> Prepared:
    """Check everything that can be checked before anything is stored.

    With ``download`` a hub's models are brought here and looked at, too.

    Raises SourceError for the source, PipelineInvalid for a step that its model cannot do, HubUnreachable.
    """
    corpus = pipeline.corpus
    source = open_source(corpus.source, reading(corpus, [step.options for step in pipeline.steps]))
    request = Request(
        source=corpus.source,
        task=pipeline.steps[0].task,
        corpus=corpus.name,
        text_field=corpus.text_field,
        id_field=corpus.id_field,
        limit=corpus.limit,
        strict=corpus.strict,
        prune=corpus.prune,
        prune_max=corpus.prune_max,
        prune_rejected=corpus.prune_rejected,
        priority=pipeline.priority,
        max_failures=pipeline.max_failures,
    )
    steps = tuple(_step(settings, step, download) for step in pipeline.steps)
    return Prepared(request, steps, source, storable(corpus.name))


def _step(settings: Settings, step: Step, download: bool) -> StepRequest:
    options = step.options if step.options.dtype != "auto" else replace(step.options, dtype=settings.dtype)
    try:
        spec = spec_of(settings, step.task, step.model, step.revision, options)
        require_possible(settings, spec, download=download)
    except HubUnreachable:
        raise
    except TaskError as error:
        raise PipelineInvalid(f"step {step.name}: {error}") from error
    return StepRequest(step.name, spec, None if step.input == DOCUMENT else step.input)


def export(database: Database, pipeline: Pipeline, job_id: int) -> int | None:
    """Write the pipeline's output, if it has one, from a job of it. Returns how many documents.

    Parts of another run are replaced, those of this one carried on. Raises FormatUnfit, PartsRefused, FolderBusy,
    ResultsChanged, OSError.
    """
    output = pipeline.output
    if output.file is None:
        return None
    target = Target.of(output.file, output.format)
    if output.part_documents is not None:
        return parts.export(database, job_id, target, output.part_documents, replaced=True).documents
    return target.write(export_rows(database, job_id, target.format))


def advance(settings: Settings, database: Database, broker: Broker, run_id: int) -> None:
    """Take a run further: read the source of one that is due, conclude one whose job has ended.

    What is wrong with it ends the run with the reason. A database that is away ends nothing, nor does another worker
    that is writing the run's parts: the run is handed out again after a while.
    """
    run = pipelines.take(database, run_id)
    if run is None:
        return
    try:
        pipeline = parse(run.text, Path(run.path))
        if run.state == "reading":
            _read(settings, database, lambda: broker, run, pipeline)
        elif run.job_id is not None:
            conclude(database, run.id, pipeline, read_status(database, run.job_id))
    except (DatabaseUnreachable, DatabaseBusy, FolderBusy) as error:
        log.warning("run_waits run=%d error=%s", run.id, error)
    except (WorkerError, TaskError, StorageError, OSError) as error:
        log.error(
            "run_failed run=%d pipeline=%s error=%s reason=%r", run.id, run.name, type(error).__name__, str(error)
        )
        pipelines.note(database, run.id, "failed", reason=str(error))


def _read(
    settings: Settings, database: Database, broker: Callable[[], Broker | None], run: Run, pipeline: Pipeline
) -> None:
    done = enqueue(database, broker, prepare(settings, pipeline), JobNoted(database, run.id))
    pipelines.note(database, run.id, "running", job_id=done.id)
    log.info("run_started run=%d pipeline=%s job=%d planned=%d", run.id, run.name, done.id, done.counts.planned)


class JobNoted(Progress):
    """Notes a run's job as soon as it has a number: from then on the ingest's signs of life are the run's."""

    def __init__(self, database: Database, run_id: int) -> None:
        self._database = database
        self._run_id = run_id

    def opened(self, job: OpenJob) -> None:
        pipelines.note(self._database, self._run_id, "reading", job_id=job.id)


def conclude(database: Database, run_id: int, pipeline: Pipeline, status: JobStatus) -> None:
    """End a run whose job has ended: write its output, and note what came of it."""
    if status.state != "done":
        pipelines.note(database, run_id, "failed", reason=f"job {status.id} was {status.state}")
        return
    export(database, pipeline, status.id)
    pipelines.note(database, run_id, "done", reason=remark(status))


def remark(status: JobStatus) -> str | None:
    """Return what the history says of a job that is done and lacks something."""
    lacking = [f"{status.failed:,} texts failed"] if status.failed else []
    lacking += [f"{status.rejected:,} records were rejected"] if status.rejected else []
    said = [f"{' and '.join(lacking)}: docmill failures {status.id}"] if lacking else []
    return ". ".join([*said, *filter(None, [status.not_pruned])]) or None
