"""`docmill pipeline`: check, run, store and list pipelines."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli import formatting
from worker.cli.context import open_broker, open_store, settings_from
from worker.cli.exit_codes import OK
from worker.cli.interrupts import stop_as_interrupt
from worker.cli.options import BACKEND, DEVICE, JSON
from worker.cli.output_files import check_out_is_no_input
from worker.cli.printing import answer, print_json, say
from worker.cli.requests import say_conversions

if TYPE_CHECKING:
    from storage.core.database import Database
    from storage.core.schema import PipelineRow, PipelineRun
    from worker.concurrency.renewal import Held
    from worker.pipelines.file import Pipeline
    from worker.settings import Settings
    from worker.submit.request import Prepared

FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
NAME = click.argument("name")


@click.group("pipeline", epilog="Example: docmill pipeline check nightly.toml && docmill pipeline run nightly.toml")
def pipeline_command() -> None:
    """Run several steps over a corpus, by hand or on a schedule.

    A step reads the documents, or the output of an earlier step. docs/pipeline-file.md describes the file.
    """


def _prepared(
    settings: Settings, file: Path, *, is_stored: bool = False, devices: Sequence[str] = ()
) -> tuple[Pipeline, Prepared]:
    from worker.pipelines.file import read, refuse_secrets
    from worker.pipelines.running import prepare

    pipeline = read(file)
    if is_stored:
        refuse_secrets(pipeline, file)
    say_conversions(settings, [step.model for step in pipeline.steps])
    prepared = prepare(settings, pipeline, devices)
    for sentence in prepared.not_read:
        say(sentence)
    _check_output(pipeline, file)
    return pipeline, prepared


def _check_output(pipeline: Pipeline, file: Path) -> None:
    """Refuse an output file that could not be written, with the line of the pipeline file that names it."""
    from worker.cli.output_files import check_folder, check_out
    from worker.pipelines.file import PipelineInvalid, line_of

    output = pipeline.output
    if output.file is None:
        return
    parts = output.part_documents is not None
    try:
        (check_folder if parts else check_out)(Path(output.file), output.format)
        check_out_is_no_input(Path(output.file), output.format, pipeline.corpus.source, parts=parts)
    except click.BadParameter as error:
        line = line_of(pipeline, ("output", "file"))
        raise PipelineInvalid(f"{file}:{line}: file in [output]: {error.message}") from error


def _check_stored(pipeline: Pipeline, prepared: Prepared, file: Path) -> None:
    """Refuse what cannot be kept: a password in the source, or a view in which two columns would have one name."""
    from storage.pipelines import views
    from tasks import kinds
    from worker.pipelines.file import PipelineInvalid, line_of, refuse_secrets

    refuse_secrets(pipeline, file)
    outputs = [(step, kinds.kind(step.spec.kind).output) for step in prepared.steps]
    if pipeline.output.view and (found := views.clash(outputs)) is not None:
        first, second, column = found
        place = [step.name for step in prepared.steps].index(second)
        raise PipelineInvalid(
            f"{file}:{line_of(pipeline, ('step', place, 'name'))}: {second} and {first} would both have the column "
            f'"{column}" in the view; choose another name for the step, or say view = false in [output]'
        )


@pipeline_command.command("check", epilog="Example: docmill pipeline check nightly.toml")
@FILE
@JSON
def check_command(file: Path, as_json: bool) -> int:
    """Check the keys, source and models of FILE. Stores nothing."""
    from worker.pipelines.file import PipelineInvalid

    pipeline, prepared = _prepared(settings_from(), file)
    try:
        _check_stored(pipeline, prepared, file)
    except PipelineInvalid as error:
        say(f"`docmill pipeline add` refuses this file, `docmill pipeline run` does not: {error}")
    if as_json:
        print_json(_as_json(pipeline) | {"specs": {step.name: asdict(step.spec) for step in prepared.steps}})
        return OK
    for step in prepared.steps:
        only = "" if step.flagged is None else f", only {step.flagged}"
        answer(f"{step.name}: {step.spec} over {step.input or 'the documents'}{only}")
        if (again := step.escalation) is not None:
            other = formatting.unlike(step.spec, again.spec)
            answer(f"  {again.doubt}: escalates to {again.spec}{other}")
    answer(f"schedule: {_when(pipeline)}")
    say(f"{file} is in order.")
    return OK


@pipeline_command.command("schema", epilog="Example: docmill pipeline schema > pipeline.schema.json")
def schema_command() -> int:
    """Print the JSON Schema of pipeline files, for completion in editors.

    An editor uses the schema if the first line of a pipeline file names it: #:schema pipeline.schema.json
    """
    from worker.pipelines.schema import json_schema

    print_json(json_schema())
    return OK


@pipeline_command.command("run", epilog="Example: docmill pipeline run nightly.toml --device cpu")
@FILE
@DEVICE
@BACKEND
@JSON
def run_command(file: Path, device: str | None, backend: str | None, as_json: bool) -> int:
    """Run the pipeline in FILE here and now, and write its output file.

    No step computes a text that has a result already. The same command continues an interrupted run. If the pipeline
    was added, its history lists the run.
    """
    from storage.results.flag_counts import count_flags
    from worker.cli import show
    from worker.cli.default_models import said
    from worker.cli.exit_codes import exit_code_of
    from worker.cli.local import run_here
    from worker.cli.terminal import lines_above_the_bar
    from worker.engines.devices import choose_devices
    from worker.pipelines.running import export, outcome

    settings = settings_from(device=device, backend=backend)
    devices = choose_devices(settings.device)
    stop_as_interrupt()
    with open_store(settings) as database:
        pipeline, prepared = _prepared(settings, file, devices=devices)
        for step in pipeline.steps:
            if step.model is None:
                say(f"Step {step.name}: {said(step.task, pipeline.corpus.source, step.options)}")
        with _in_history(settings, database, pipeline.name) as (held, note):
            with open_broker(settings) as broker, lines_above_the_bar(settings.log_level):
                status = run_here(settings, database, broker, devices, prepared)
            note("running", job_id=status.id)
            written = export(database, pipeline, status.id, held)
            state, reason = outcome(status)
            note(state, job_id=status.id, reason=reason)
        flags = count_flags(database, status.id)
        if as_json:
            print_json(formatting.as_json(status) | formatting.flags_as_json(flags))
        else:
            show.paper.print(show.steps_table(status, flags))
        say(formatting.summary(status))
        if written is not None:
            say(f"Wrote {written:,} results to {pipeline.output.file}.")
        else:
            say(f"All results: docmill results {status.id} --out FILE")
        return exit_code_of(status, pipeline.job.max_failures)


@contextmanager
def _in_history(settings: Settings, database: Database, name: str) -> Iterator[tuple[Held, Callable[..., object]]]:
    """Enter a run by hand into the history of a stored pipeline. Yield its lease and a function for its state.

    For a pipeline that is not stored, the function does nothing.
    """
    from storage.errors import NoSuchPipeline, StorageError
    from storage.pipelines import pipelines
    from worker.concurrency.renewal import Held
    from worker.pipelines.running import keeping

    try:
        run = pipelines.begin(database, name, f"{platform.node()}/{os.getpid()}", settings.lease_s)
    except NoSuchPipeline:
        yield Held(f"the run of {name}", lambda: True, None), lambda *_, **__: None
        return
    with keeping(database, run, settings.lease_s) as held:
        try:
            yield held, partial(pipelines.note, database, run)
        except BaseException as error:
            try:
                pipelines.note(database, run, "failed", reason=str(error) or "it was interrupted")
            except StorageError:
                say("The run's end could not be noted in the history.")
            raise


@pipeline_command.command("add", epilog="Example: docmill pipeline add nightly.toml")
@FILE
@JSON
def add_command(file: Path, as_json: bool) -> int:
    """Store the pipeline in FILE, or a new version of it.

    A stored pipeline has a schedule, a history and a view. Workers start it when it is due, so its source must exist
    on the workers too. The command creates the view, so it needs an administrator's privileges.
    """
    from storage.pipelines import pipelines, views

    settings = settings_from()
    with open_store(settings) as database:
        pipeline, prepared = _prepared(settings, file, is_stored=True)
        _check_stored(pipeline, prepared, file)
        schedule = asdict(pipeline.schedule) if pipeline.schedule else None
        pipelines.put(database, pipeline.name, str(file.absolute()), pipeline.text, schedule)
        if pipeline.output.view:
            views.make(database, pipeline.name, prepared.corpus, prepared.steps)
        else:
            views.drop(database, pipeline.name)
    if as_json:
        print_json(_as_json(pipeline))
        return OK
    say(f"Pipeline {pipeline.name} is stored; {_when(pipeline)}.")
    if pipeline.output.view:
        say(f"Its results are in the view {views.name_of(pipeline.name)}.")
    return OK


@pipeline_command.command("list", epilog="Example: docmill pipeline list --json | jq '.[].next_run'")
@JSON
def list_command(as_json: bool) -> int:
    """List the stored pipelines, with their last and next runs."""
    from storage.pipelines import pipelines
    from worker.cli import show
    from worker.cli.tables import Name, table

    with open_store(settings_from()) as database:
        found = [_listed(row, run) for row, run in pipelines.every(database)]
    if as_json:
        print_json(found)
        return OK
    made = table("pipeline", "schedule", "last run", "state", "next run", names={"pipeline", "schedule"})
    for one in found:
        last = one["last_run"] or {}
        schedule = one["schedule"]
        said = f"{schedule['cron']} ({schedule['timezone']})" if schedule else "none"
        times = (formatting.local_time(last.get("at")), last.get("state", ""), formatting.local_time(one["next_run"]))
        made.add_row(Name(one["name"]), Name(said), *times)
    show.paper.print(made)
    return OK


@pipeline_command.command("show", epilog="Example: docmill pipeline show nightly > nightly.toml")
@NAME
@JSON
def show_command(name: str, as_json: bool) -> int:
    """Print the stored file of the pipeline NAME."""
    from storage.pipelines import pipelines
    from worker.pipelines.file import parse

    with open_store(settings_from()) as database:
        row = pipelines.get(database, name)
    if as_json:
        print_json(_as_json(parse(row.text, Path(row.path))))
    else:
        answer(row.text, nl=not row.text.endswith("\n"))
    return OK


@pipeline_command.command("rm", epilog="Example: docmill pipeline rm nightly")
@NAME
def rm_command(name: str) -> int:
    """Remove the pipeline NAME, its history and its view. Its corpus, jobs and results stay."""
    from storage.pipelines import pipelines, views

    with open_store(settings_from()) as database:
        pipelines.remove(database, name)
        views.drop(database, name)
    say(f"Pipeline {name} was removed. Its corpus, jobs and results stay.")
    return OK


@pipeline_command.command("history", epilog="Example: docmill pipeline history nightly")
@NAME
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="List the latest N runs.")
@JSON
def history_command(name: str, limit: int, as_json: bool) -> int:
    """List the runs of the pipeline NAME, newest first."""
    from rich.text import Text

    from storage.pipelines import pipelines
    from worker.cli import show
    from worker.cli.formatting import printable
    from worker.cli.tables import table

    with open_store(settings_from()) as database:
        runs = [_run(row) for row in pipelines.history(database, name, limit)]
    if as_json:
        print_json(runs)
        return OK
    made = table("run", "due", "began", "ended", "state", "job")
    for run in runs:
        times = [formatting.local_time(run[key]) for key in ("due", "at", "ended")]
        job = "" if run["job"] is None else str(run["job"])
        made.add_row(str(run["id"]), times[0] or "by hand", *times[1:], run["state"], job)
    show.paper.print(made)
    for run in runs:
        if run["reason"]:
            show.paper.print(Text(printable(f"Run {run['id']}: {run['reason']}")))
    return OK


def _listed(row: PipelineRow, run: PipelineRun | None) -> dict[str, Any]:
    from worker.pipelines.schedule import Schedule, next_after

    next_run = next_after(Schedule(**row.schedule), row.looked_at) if row.schedule else None
    return {
        "name": row.name,
        "schedule": row.schedule,
        "last_run": _run(run) if run is not None else None,
        "next_run": next_run,
        "path": row.path,
    }


def _run(row: PipelineRun) -> dict[str, Any]:
    return {
        "id": row.id,
        "due": row.due_at,
        "at": row.created_at,
        "ended": row.finished_at,
        "state": row.state,
        "job": row.job_id,
        "reason": row.reason,
    }


def _when(pipeline: Pipeline) -> str:
    import time

    from worker.pipelines.schedule import next_after

    schedule = pipeline.schedule
    if schedule is None:
        return "it has no schedule; run it with: docmill pipeline run FILE"
    due = formatting.local_time(next_after(schedule, time.time()))
    return f"{schedule.cron} ({schedule.timezone}), next run {due}"


def _as_json(pipeline: Pipeline) -> dict[str, Any]:
    steps = [
        vars(step)
        | {"options": step.options.model_dump(mode="json", exclude_none=True)}
        | {"flagged": None if step.flagged is None else step.flagged.to_json()}
        | {"escalation": None if step.escalation is None else step.escalation.to_json()}
        for step in pipeline.steps
    ]
    shown = {
        "corpus": pipeline.corpus.model_dump(),
        "steps": steps,
        "schedule": pipeline.schedule and asdict(pipeline.schedule),
        "output": pipeline.output.model_dump(),
    }
    return {"name": pipeline.name, **shown, **pipeline.job.model_dump(), "text": pipeline.text}
