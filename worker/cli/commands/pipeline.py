"""`docmill pipeline`: check, run, store and list pipelines."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from docmill.storage.pipelines import pipelines, views
from docmill.storage.results.job_counts import count_flags
from docmill.worker import formatting
from docmill.worker.cli.options import BACKEND, DEVICE, JSON, LATEST, YES, FilledPath
from docmill.worker.cli.printing import (
    OK,
    answer,
    confirm,
    exit_code_of,
    listen,
    print_json,
    print_rich,
    say,
)
from docmill.worker.consoles import NameCell, steps_table, table
from docmill.worker.engines import choose_devices
from docmill.worker.errors import WorkerError
from docmill.worker.formatting import printable
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.jobs.pipelines import check_stored, list_pipelines, list_runs, prepare_file, run_file, store_file
from docmill.worker.pipelines.file import Pipeline, parse
from docmill.worker.pipelines.schedule import next_after
from docmill.worker.pipelines.schema import json_schema
from docmill.worker.prices import Cost, limit_cost, read_prices
from docmill.worker.settings import load_settings
from docmill.worker.stores import open_store

FILE = click.argument("file", type=FilledPath(dir_okay=False, path_type=Path))
NAME = click.argument("name")


@click.group("pipeline", epilog="Example: docmill pipeline check nightly.toml && docmill pipeline run nightly.toml")
def pipeline_command() -> None:
    """Run several steps over a corpus, by hand or on a schedule.

    A step reads the documents, or the output of an earlier step. docs/pipeline-file.md describes the file.
    """


@pipeline_command.command("check", epilog="Example: docmill pipeline check nightly.toml")
@FILE
@JSON
def check_command(file: Path, as_json: bool) -> None:
    """Check the keys, source and models of FILE. Stores nothing."""
    settings = load_settings()
    pipeline, prepared = prepare_file(settings, file)
    limit_cost(settings, prepared.job.max_cost, prepared.specs)  # refuses a limit that lacks a price
    try:
        check_stored(pipeline, prepared)
    except WorkerError as error:
        say(f"`docmill pipeline add` refuses this file, `docmill pipeline run` does not: {error}")
    if as_json:
        print_json(_as_json(pipeline) | {"specs": {step.name: asdict(step.spec) for step in prepared.steps}})
        return
    for step in prepared.steps:
        only = "" if step.flagged is None else f", only {step.flagged}"
        only += "" if step.leaves_out is None else f", without {step.leaves_out}"
        said = [f"{step.name}: {step.spec} over {step.input or 'the documents'}{only}"]
        if (again := step.escalation) is not None:
            other = formatting.describe_difference(step.spec, again.spec)
            said.append(f"  {again.doubt}: escalates to {again.spec}{other}")
        for sentence in said:
            answer("\n".join(formatting.wrapped(sentence, indent="    ", width=80)))
    answer(f"schedule: {_when(pipeline)}")
    say(f"{file} is in order.")


@pipeline_command.command("schema", epilog="Example: docmill pipeline schema > pipeline.schema.json")
def schema_command() -> None:
    """Print the JSON Schema of pipeline files, for editors.

    Editors use it if the file's first line names it: #:schema pipeline.schema.json
    """
    print_json(json_schema())


@pipeline_command.command("run", epilog="Example: docmill pipeline run nightly.toml --device cpu")
@FILE
@DEVICE
@BACKEND
@JSON
def run_command(file: Path, device: str | None, backend: str | None, as_json: bool) -> int:
    """Run the pipeline in FILE here and now, and write its output file unless its job is stopped.

    No step computes a text that has a result already. The same command continues an interrupted run. If the pipeline
    was added, its history lists the run.
    """
    settings = load_settings(device=device, backend=backend)
    prices = read_prices(settings)
    devices = choose_devices(settings.device)
    with open_store(settings) as database:
        pipeline, status, written = run_file(settings, database, file, devices, listen(settings))
        flags, cost = count_flags(database, status.id), prices.cost_of(status)
        if as_json:
            counts = formatting.flags_as_json(flags) | formatting.cost_as_json(cost)
            print_json(formatting.as_json(status) | counts)
        else:
            print_rich(steps_table(status, flags))
        say(formatting.summary(status, cost))
        if written is not None:
            say(f"Wrote {formatting.counted(written, 'row')} to {pipeline.output.file}.")
            if (left := formatting.not_written(status, written)) is not None:
                say(left)
        else:
            if pipeline.output.file is not None and status.state != "done":
                say(f"{pipeline.output.file} was not written, since the job was stopped.")
            say(f"All results: docmill results {status.id} --out FILE")
        return exit_code_of(status, pipeline.job.max_failures)


@pipeline_command.command("add", epilog="Example: docmill pipeline add nightly.toml")
@FILE
@JSON
def add_command(file: Path, as_json: bool) -> None:
    """Store the pipeline in FILE, or a new version of it.

    A stored pipeline has a schedule, a history and a view. Workers start it when it is due, so its source must exist
    on the workers too. The command creates the view, so it needs an administrator's privileges.
    """
    settings = load_settings()
    with open_store(settings) as database:
        pipeline = store_file(settings, database, file, listen())
    if as_json:
        print_json(_as_json(pipeline))
        return
    say(f"Pipeline {pipeline.name} is stored; {_when(pipeline)}.")
    if pipeline.output.view:
        say(f"Its results are in the view {views.name_of(pipeline.name)}.")


@pipeline_command.command("list", epilog="Example: docmill pipeline list --json | jq '.[].next_run'")
@JSON
def list_command(as_json: bool) -> None:
    """List the stored pipelines, with their last and next runs."""
    settings = load_settings()
    prices = read_prices(settings)
    with open_store(settings) as database:
        listed = list_pipelines(database, prices)
    if as_json:
        print_json(listed)
        return
    if not listed:
        say("No pipelines yet; `docmill pipeline add FILE` stores one.")
        return
    made = table("pipeline", "schedule", "last run", "state", "next run", names={"pipeline", "schedule"})
    for row in listed:
        last = row["last_run"] or {}
        schedule = row["schedule"]
        said = f"{schedule['cron']} ({schedule['timezone']})" if schedule else "none"
        due = formatting.zone_time(row["next_run"], schedule["timezone"]) if schedule else ""
        made.add_row(
            NameCell(row["name"]), NameCell(said), formatting.local_time(last.get("at")), last.get("state", ""), due
        )
    print_rich(made)


@pipeline_command.command("show", epilog="Example: docmill pipeline show nightly > nightly.toml")
@NAME
@JSON
def show_command(name: str, as_json: bool) -> None:
    """Print the stored file of the pipeline NAME."""
    with open_store(load_settings()) as database:
        row = pipelines.get(database, name)
    if as_json:
        print_json(_as_json(parse(row.text, Path(row.path))))
    else:
        text = printable(row.text, keep="\r\n\t") if sys.stdout.isatty() else row.text
        click.echo(text.encode(), nl=not text.endswith("\n"))


@pipeline_command.command("rm", epilog="Example: docmill pipeline rm nightly --yes")
@NAME
@YES
def rm_command(name: str, yes: bool) -> int:
    """Remove the pipeline NAME, its history and its view. Its corpus, jobs and results stay."""
    with open_store(load_settings()) as database:
        pipelines.get(database, name)
        question = f"This removes the pipeline {name}, its history and its view. Its corpus, jobs and results stay."
        if not yes and not confirm(question):
            return BAD_INPUT
        pipelines.remove(database, name)
        views.drop(database, name)
    say(f"Pipeline {name} was removed. Its corpus, jobs and results stay.")
    return OK


@pipeline_command.command("history", epilog="Example: docmill pipeline history nightly")
@NAME
@LATEST
@JSON
def history_command(name: str, limit: int, as_json: bool) -> None:
    """List the runs of the pipeline NAME, newest first.

    If DOCMILL_PRICES is set, the list has the cost of their tokens.
    """
    settings = load_settings()
    prices = read_prices(settings)
    with open_store(settings) as database:
        runs = list_runs(database, name, limit, prices)
    if as_json:
        print_json(runs)
        return
    if not runs:
        say(f"The pipeline {printable(name)} has no runs yet.")
        return
    paid = any(run["cost"] for run in runs)
    made = table("run", "due", "began", "ended", "state", "job", *(["cost"] if paid else []))
    for run in runs:
        times = [formatting.local_time(run[key]) for key in ("due", "at", "ended")]
        job = "" if run["job"] is None else str(run["job"])
        cost = [str(Cost(**run["cost"])) if run["cost"] else ""] if paid else []
        made.add_row(str(run["id"]), times[0] or "by hand", *times[1:], run["state"], job, *cost)
    print_rich(made)
    for run in runs:
        if run["reason"]:
            print_rich(Text(printable(f"Run {run['id']}: {run['reason']}")))


def _when(pipeline: Pipeline) -> str:
    schedule = pipeline.schedule
    if schedule is None:
        return "it has no schedule; run it with: docmill pipeline run FILE"
    due = formatting.zone_time(next_after(schedule.cron, schedule.timezone, time.time()), schedule.timezone)
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
        "schedule": pipeline.schedule and pipeline.schedule.model_dump(),
        "output": pipeline.output.model_dump(),
    }
    return {"name": pipeline.name, **shown, **pipeline.job.model_dump(), "text": pipeline.text}
