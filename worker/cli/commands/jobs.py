"""Commands about jobs: `docmill jobs`, `status`, `failures`, and those that change a job."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click

from docmill.storage.core.database import Database
from docmill.storage.results.job_counts import count_escalated, count_flags
from docmill.storage.results.status import list_statuses, read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.replacements import describe_replacement
from docmill.storage.writers.formats import escape_formula
from docmill.worker import formatting
from docmill.worker.cli.options import JOB, JOB_ID, JSON, LARGEST_INT, LATEST, Choice, number, whole_number
from docmill.worker.cli.printing import (
    OK,
    answer,
    exit_code_of,
    listen,
    print_json,
    print_rich,
    say,
    write_out,
)
from docmill.worker.formatting import printable
from docmill.worker.jobs.follow import change_job, resume_job, retry_failures
from docmill.worker.prices import read_prices
from docmill.worker.settings import load_settings
from docmill.worker.stores import open_store


@click.command("jobs", epilog="Example: docmill jobs --json")
@LATEST
@JSON
def jobs_command(limit: int, as_json: bool) -> None:
    """List the latest jobs, newest first."""
    with open_store(load_settings()) as database:
        statuses = list_statuses(database, limit)
    if as_json:
        print_json([formatting.as_json(status) for status in statuses])
    elif statuses:
        from docmill.worker.consoles import jobs_table

        print_rich(jobs_table(statuses))
    else:
        say("No jobs yet; `docmill run summarize SOURCE` makes one.")


@click.command("status", epilog="Example: docmill status 7 --wait && docmill results 7 --out results.jsonl")
@click.argument("job", type=JOB_ID, required=False)
@click.option("--wait", is_flag=True, help="Show progress until the job ends, and exit with its code.")
@JSON
def status_command(job: int | None, wait: bool, as_json: bool) -> int:
    """Show JOB's progress: counts, tokens per second, time left, and the reason if it makes none.

    Without JOB it shows the latest job; docmill jobs lists all.

    "flags" counts the results with each flag: first doubtful flags, then remarks. "escalated" counts the texts
    that --escalate computed again and the results that it kept. "cost" is the price of the job's tokens, if
    DOCMILL_PRICES names a file with prices.

    With --wait, exit code 0 means that every document has its result; 1: some documents failed; 4: some records were
    rejected and nothing failed. If every worker refuses the job for more than a minute, it is blocked: the command
    ends with exit code 1.
    """
    settings = load_settings()
    prices = read_prices(settings)
    with open_store(settings) as database:
        job = job or jobs.latest(database)
        if wait:
            from docmill.worker.jobs.follow import follow  # brings Celery along, which takes a while

            status = follow(database, job, listen())
        else:
            status = read_status(database, job)
        flags, escalated = count_flags(database, job), count_escalated(database, status)
        migration = describe_replacement(database, job)
    cost = prices.cost_of(status)
    if as_json:
        counts = formatting.flags_as_json(flags) | formatting.escalated_as_json(escalated)
        counts |= formatting.cost_as_json(cost) | ({"migration": migration} if migration else {})
        print_json(formatting.as_json(status) | counts)
    elif wait:
        say(formatting.summary(status, cost))
    else:
        shown = formatting.describe_status(status, flags, escalated, cost)
        click.echo(formatting.aligned(shown | ({"migration": formatting.printable(migration)} if migration else {})))
    return exit_code_of(status) if wait else OK


@click.command("retry", epilog="Example: docmill retry 7 --only transient && docmill status 7 --wait")
@JOB
@click.option("--only", type=Choice(["transient", "document", "model"]), help="Retry only failures of this class.")
@JSON
def retry_command(job: int, only: str | None, as_json: bool) -> None:
    """Try JOB's failed documents again, and continue a stopped job.

    --max-failures and --max-flagged still apply, but not to the retried failures, nor to doubtful results from
    before --max-flagged stopped the job.

    Classes of failures: document (the document caused it), model (the model caused it), transient (something else
    did). docmill keeps a failure until a new attempt succeeds. Workers retry the documents; if none is running, the
    next `docmill run` or `docmill worker` does.
    """
    with open_store(load_settings()) as database:
        texts, goes_on, said = retry_failures(database, job, only)
        waiting_for = read_status(database, job).waiting_for
    if as_json:
        print_json({"id": job, "retried": texts, "goes_on": goes_on})
    else:
        say(said)
        if waiting_for:
            say(waiting_for)


def _apply(change: Callable[[Database], tuple[bool, str]], job: int, as_json: bool, key: str = "changed") -> None:
    """Change a job, and print the sentence or the JSON of the change."""
    with open_store(load_settings()) as database:
        changed, said = change(database)
    if as_json:
        print_json({"id": job, key: changed})
    else:
        say(said)


@click.command("cancel", epilog="Example: docmill cancel 7")
@JOB
@JSON
def cancel_command(job: int, as_json: bool) -> None:
    """Stop JOB. Finished results stay; work in progress is dropped."""
    _apply(lambda database: change_job(database, job, jobs.cancel, "cancelled"), job, as_json, key="cancelled")


@click.command("pause", epilog="Example: docmill pause 7")
@JOB
@JSON
def pause_command(job: int, as_json: bool) -> None:
    """Pause JOB until `docmill resume JOB`. Finished results stay; work in progress is dropped.

    Workers notice within seconds and turn to other jobs.
    """
    _apply(lambda database: change_job(database, job, jobs.pause, "paused"), job, as_json)


@click.command("resume", epilog="Example: docmill resume 7 --max-cost 5")
@JOB
@click.option(
    "--max-cost",
    type=number(0, min_open=True),
    help="New limit of the job's total cost, in the currency of DOCMILL_PRICES.",
)
@JSON
def resume_command(job: int, max_cost: float | None, as_json: bool) -> None:
    """Resume a paused JOB. If it has reached its --max-cost, it needs a higher one."""
    settings = load_settings()
    _apply(lambda database: resume_job(settings, database, job, max_cost), job, as_json)


@click.command("priority", epilog="Example: docmill priority 7 10")
@JOB
@click.argument("priority", type=whole_number(-LARGEST_INT, LARGEST_INT))
@JSON
def priority_command(job: int, priority: int, as_json: bool) -> None:
    """Change the priority of JOB. A higher PRIORITY goes first; jobs of equal priority share the workers evenly.

    Put two dashes before a negative priority: docmill priority -- 7 -5.
    """
    change = partial(jobs.prioritize, priority=priority)
    _apply(lambda database: change_job(database, job, change, f"at priority {priority}"), job, as_json)


@click.command("failures", epilog="Example: docmill failures 7 --json | jq .reason")
@JOB
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
def failures_command(job: int, as_json: bool) -> None:
    """List failed documents, blank documents and rejected records of JOB, with the reasons."""
    from docmill.storage.results.results import failures

    with open_store(load_settings()) as database:
        rows = failures(database, job)
        if as_json:
            write_out(rows)
            return
        names: list[str] = []
        for row in rows:
            if not names:  # those of documents come first, with a step if the job has several
                names = [name for name in ("step", "status", "class", "reason") if name in row]
                answer("\t".join(["document", *names]))
            fields = (row.get(name) for name in ("id", *names))
            answer("\t".join(printable(escape_formula(field), keep="") if field else "-" for field in fields))
        if not names:
            say(f"Job {job} has no failures.")
