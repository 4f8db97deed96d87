"""Commands about jobs that exist: how they stand, what they gave, trying again, stopping."""

from __future__ import annotations

from pathlib import Path

import click

from worker.cli.faults import BAD_INPUT, OK
from worker.cli.session import OUT, STDOUT, check_out, open_store, print_json, say, settings_from, write_out

JOB = click.argument("job", type=click.IntRange(1, 2**63 - 1))
JSON = click.option("--json", "as_json", is_flag=True, help="For machines.")


@click.command("jobs", epilog="Example: docmill jobs --json")
@click.option("--limit", type=click.IntRange(1, 2**31 - 1), default=20, show_default=True, help="Only the latest N.")
@JSON
def jobs_command(limit: int, as_json: bool) -> int:
    """List the latest jobs, newest first."""
    from storage.status import list_statuses
    from worker.cli import show

    with open_store(settings_from()) as database:
        statuses = list_statuses(database, limit)
    if as_json:
        print_json([show.as_json(status) for status in statuses])
    elif statuses:
        show.paper.print(show.jobs_table(statuses))
    else:
        say("No jobs yet; `docmill run SOURCE --task summarize` makes one.")
    return OK


@click.command("status", epilog="Example: docmill status 7 --watch")
@JOB
@click.option("--watch", is_flag=True, help="Keep showing progress until the job ends.")
@JSON
def status_command(job: int, watch: bool, as_json: bool) -> int:
    """Show how far JOB is: counts, tokens per second, time left, and what it waits for."""
    from storage.status import read_status
    from worker.cli import show
    from worker.cli.follow import follow

    with open_store(settings_from()) as database:
        status = follow(database, job) if watch else read_status(database, job)
    if as_json:
        print_json(show.as_json(status))
    else:
        show.paper.print(show.status_table(status))
    return OK


@click.command("wait", epilog="Example: docmill wait 7 && docmill results 7 --out results.jsonl")
@JOB
@JSON
def wait_command(job: int, as_json: bool) -> int:
    """Wait for JOB to end; exit code 0 when every document has its result, 1 when some failed."""
    from worker.cli import show
    from worker.cli.follow import follow
    from worker.cli.work import exit_code_of

    with open_store(settings_from()) as database:
        status = follow(database, job)
    if as_json:
        print_json(show.as_json(status))
    else:
        say(show.summary(status))
    return exit_code_of(status)


@click.command("results", epilog="Example: docmill results 7 --out summaries.jsonl")
@JOB
@click.option("--out", type=OUT, default=STDOUT, help="A file instead of stdout.")
@click.option("--partial", is_flag=True, help="What there is, of a job that has not ended.")
def results_command(job: int, out: Path, partial: bool) -> int:
    """Write JOB's results as JSON lines, in the order of the source.

    Each line has "id", "task", "text" or "vector", "tokens_in", "tokens_out", "flags" and "meta" (the record's
    other fields). A file appears under its name only when it is whole.
    """
    from storage.results import results
    from storage.status import read_status
    from worker.cli.show import summary

    check_out(out)
    with open_store(settings_from()) as database:
        status = read_status(database, job)
        if not status.ended and not partial:
            say(f"Job {job} is not finished ({status.pending:,} texts to do); --partial writes what there is.")
            return BAD_INPUT
        write_out(out, results(database, job))
    if status.state in {"cancelled", "stopped"}:
        lacking = status.texts - status.done
        say(f"Job {job} was {status.state}: {lacking:,} of its {status.texts:,} texts have no result.")
    if status.failed or status.skipped or status.rejected or status.state != "done":
        say(summary(status))
    return OK


@click.command("failures", epilog="Example: docmill failures 7 --json | jq .reason")
@JOB
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
def failures_command(job: int, as_json: bool) -> int:
    """List what of JOB has no result: failed and blank documents and rejected records, with the reasons."""
    from storage.results import failures
    from worker.cli.show import cell

    with open_store(settings_from()) as database:
        found = failures(database, job)
        if as_json:
            write_out(STDOUT, found)
            return OK
        none = True
        for row in found:
            none = False
            fields = (row["id"], row["status"], row["class"], row["reason"])
            click.echo("\t".join(cell(field) if field else "-" for field in fields))
        if none:
            say(f"Job {job} has no failures.")
    return OK


@click.command("retry", epilog="Example: docmill retry 7 --only transient && docmill wait 7")
@JOB
@click.option("--only", type=click.Choice(["transient", "document", "model"]), help="Only failures of this class.")
@JSON
def retry_command(job: int, only: str | None, as_json: bool) -> int:
    """Try JOB's failed documents again.

    transient: something around the work failed; document: the document's own doing; model: the model's. The
    failures stay on record until something better takes their place. Workers do the work; where none runs, the
    next `docmill run` or `docmill worker` does.
    """
    from storage import jobs

    with open_store(settings_from()) as database:
        n = jobs.retry(database, job, only)
    if as_json:
        print_json({"id": job, "retried": n})
    else:
        say(f"{n:,} texts of job {job} will be tried again." if n else f"Job {job} has nothing to try again.")
    return OK


@click.command("cancel", epilog="Example: docmill cancel 7")
@JOB
@JSON
def cancel_command(job: int, as_json: bool) -> int:
    """Stop JOB. What is done stays; what is under way is dropped."""
    from storage import jobs

    with open_store(settings_from()) as database:
        cancelled = jobs.cancel(database, job)
    if as_json:
        print_json({"id": job, "cancelled": cancelled})
    else:
        say(f"Job {job} is cancelled." if cancelled else f"Job {job} had ended already.")
    return OK
