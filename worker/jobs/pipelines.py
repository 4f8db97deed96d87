"""Pipeline files and stored pipelines: check, run here, store and list."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job, PipelineRow, PipelineRun
from docmill.storage.errors import NotFound, StorageError
from docmill.storage.pipelines import pipelines, views
from docmill.storage.results.status import JobStatus, list_statuses
from docmill.storage.steps.fitted_risks import require_risks
from docmill.tasks import kinds
from docmill.worker.concurrency import HeldLease
from docmill.worker.errors import WorkerError
from docmill.worker.formatting import cost_as_json
from docmill.worker.jobs import Listener
from docmill.worker.jobs.outputs import require_target
from docmill.worker.jobs.submission import describe_default_model
from docmill.worker.pipelines.file import Pipeline, place_of, read, refuse_secrets
from docmill.worker.pipelines.running import export, hold_run, outcome, prepare_pipeline, replace_migrated
from docmill.worker.pipelines.schedule import next_run
from docmill.worker.prices import Cost, Prices
from docmill.worker.settings import Settings
from docmill.worker.stores import open_broker
from docmill.worker.submit.request import Prepared


def prepare_file(settings: Settings, file: Path, devices: Sequence[str] = ()) -> tuple[Pipeline, Prepared]:
    """Return the pipeline in a file, checked, with its models found and its source open. Raises WorkerError."""
    pipeline = read(file)
    prepared = prepare_pipeline(settings, pipeline, devices)
    _check_output(pipeline)
    return pipeline, prepared


def _check_output(pipeline: Pipeline) -> None:
    """Refuse an output file that could not be written, with the place in the pipeline file that names it."""
    output = pipeline.output
    if output.file is None:
        return
    require_target(
        Path(output.file),
        output.format,
        source=pipeline.corpus.source,
        parts=output.part_documents is not None,
        name=place_of(pipeline, ("output", "file")),
    )


def check_stored(pipeline: Pipeline, prepared: Prepared) -> None:
    """Refuse a pipeline that cannot be stored: a password in the source, or wrong names in its views."""
    refuse_secrets(pipeline)
    if not pipeline.output.view:
        return
    outputs = [(step, kinds.kind(step.spec.kind).output) for step in prepared.steps]
    names = [step.name for step in prepared.steps]
    if (too_long := views.too_long(pipeline.name, outputs)) is not None:
        step, view = too_long
        raise WorkerError(
            f'{place_of(pipeline, ("step", names.index(step), "name"))}: the view "{view}" would have a name of '
            f"{len(view)} bytes, and PostgreSQL takes {views.NAME_BYTES}; choose a shorter name for the step or the "
            "pipeline, or set view = false in [output]"
        )
    if (clash := views.clash(outputs)) is not None:
        first, second, column = clash
        raise WorkerError(
            f"{place_of(pipeline, ('step', names.index(second), 'name'))}: {second} and {first} would both have the "
            f'column "{column}" in the view; choose another name for the step (upper and lower case do not count, '
            "nor bytes after the 63rd), or set view = false in [output]"
        )


def run_file(
    settings: Settings, database: Database, file: Path, devices: Sequence[str], listener: Listener
) -> tuple[Pipeline, JobStatus, int | None]:
    """Run the pipeline in a file on this machine, and write its output file if the job was not stopped.

    Return the pipeline, the job's final status, and the number of results written. Raises WorkerError, and the
    errors of `worker.jobs.local_run.run_here`.
    """
    from docmill.worker.jobs.local_run import run_here  # with the libraries of a worker

    pipeline, prepared = prepare_file(settings, file, devices)
    prepared = replace_migrated(settings, database, prepared, listener.say)
    for step in pipeline.steps:
        if step.model is None:
            listener.say(
                f"Step {step.name}: {describe_default_model(step.task, pipeline.corpus.source, step.options)}"
            )
    with _in_history(settings, database, pipeline.name, listener) as (held, note):
        with open_broker(settings) as broker, listener.computing():
            status = run_here(settings, database, broker, devices, prepared, listener)
        note("running", job_id=status.id)
        written = export(database, pipeline, status.id, held, listener.say) if status.state == "done" else None
        state, reason = outcome(status)
        note(state, job_id=status.id, reason=reason)
    return pipeline, status, written


def store_file(settings: Settings, database: Database, file: Path, listener: Listener) -> Pipeline:
    """Store the pipeline in a file, or a new version of it, and make its view.

    Raises WorkerError, also for a model without a price, and StorageError for a risk that nobody has fitted.
    """
    pipeline, prepared = prepare_file(settings, file)
    check_stored(pipeline, prepared)
    prepared = replace_migrated(settings, database, prepared, listener.say)
    schedule = pipeline.schedule.model_dump() if pipeline.schedule else None
    for row, _ in pipelines.every(database):
        if row.name != pipeline.name and views.share_views(row.name, pipeline.name):
            raise WorkerError(
                f"{file}: name: the views of {pipeline.name} would replace those of the stored pipeline {row.name}; "
                "choose another name"
            )
    if pipeline.output.view:  # which needs them
        require_risks(database, prepared.steps)
    pipelines.put(database, pipeline.name, str(file.absolute()), pipeline.text, schedule)
    if pipeline.output.view:
        views.make(database, pipeline.name, prepared.corpus, prepared.steps)
    else:
        views.drop(database, pipeline.name)
    return pipeline


@contextmanager
def _in_history(
    settings: Settings, database: Database, name: str, listener: Listener
) -> Iterator[tuple[HeldLease, Callable[..., object]]]:
    """Enter a run by hand into the history of a stored pipeline. Yield its lease and a function for its state.

    For a pipeline that is not stored, the function does nothing.
    """
    try:
        run = pipelines.begin(database, name, f"{platform.node()}/{os.getpid()}", settings.lease_s)
    except NotFound:
        yield HeldLease(f"the run of {name}", lambda: True, None), lambda *_, **__: None
        return
    with hold_run(database, run, settings.lease_s) as held:
        try:
            yield held, partial(pipelines.note, database, run)
        except BaseException as error:
            try:
                pipelines.note(database, run, "failed", reason=str(error) or "it was interrupted")
            except StorageError:
                listener.say("The run's end could not be noted in the history.")
            raise


def read_costs(database: Database, prices: Prices, job_ids: Iterable[int | None]) -> dict[int, Cost]:
    """Return the costs of jobs by their ids, without those whose models have no price. None stands for no job."""
    wanted = {job for job in job_ids if job is not None}
    if not wanted or not prices.models:
        return {}
    known = {job.id: prices.cost_of(job) for job in list_statuses(database, len(wanted), Job.id.in_(wanted))}
    return {job_id: cost for job_id, cost in known.items() if cost is not None}


def list_pipelines(database: Database, prices: Prices) -> list[dict[str, Any]]:
    """Return the stored pipelines with their last and next runs, for machines."""
    rows = pipelines.every(database)
    known = read_costs(database, prices, [None if run is None else run.job_id for _, run in rows])
    return [_row_of(row, run, known) for row, run in rows]


def list_runs(database: Database, name: str, limit: int, prices: Prices) -> list[dict[str, Any]]:
    """Return the latest runs of a stored pipeline, newest first, for machines. Raises NotFound."""
    rows = pipelines.history(database, name, limit)
    known = read_costs(database, prices, [row.job_id for row in rows])
    return [_run_of(row, known) for row in rows]


def _row_of(row: PipelineRow, run: PipelineRun | None, known: Mapping[int, Cost]) -> dict[str, Any]:
    return {
        "name": row.name,
        "schedule": row.schedule,
        "last_run": _run_of(run, known) if run is not None else None,
        "next_run": next_run(row.schedule, row.looked_at),
        "path": row.path,
    }


def _run_of(row: PipelineRun, known: Mapping[int, Cost]) -> dict[str, Any]:
    return {
        "id": row.id,
        "due": row.due_at,
        "at": row.created_at,
        "ended": row.finished_at,
        "state": row.state,
        "job": row.job_id,
        "reason": row.reason,
        **cost_as_json(None if row.job_id is None else known.get(row.job_id)),
    }
