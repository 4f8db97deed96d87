"""`docmill retry`: try the failed documents of a job again."""

from __future__ import annotations

import click

from docmill.worker.cli.context import open_store, settings_from
from docmill.worker.cli.exit_codes import OK
from docmill.worker.cli.options import JOB, JSON, Choice
from docmill.worker.cli.printing import print_json, say
from docmill.worker.reports.filters import counted


@click.command("retry", epilog="Example: docmill retry 7 --only transient && docmill wait 7")
@JOB
@click.option("--only", type=Choice(["transient", "document", "model"]), help="Retry only failures of this class.")
@JSON
def retry_command(job: int, only: str | None, as_json: bool) -> int:
    """Try JOB's failed documents again, and continue a stopped job.

    The limits of --max-failures and --max-flagged stay. Failures that are tried again no longer count against
    --max-failures. If --max-flagged stopped the job, its doubtful results so far no longer count.

    Classes of failures: transient (something around the work failed), document (the document caused it), model (the
    model caused it). A failure stays on record until a new attempt succeeds. Workers do the work; if none is running,
    the next `docmill run` or `docmill worker` does.
    """
    from docmill.storage.steps import jobs

    with open_store(settings_from()) as database:
        was_stopped = jobs.require(database, job).state == "stopped"
        n = jobs.retry(database, job, only)
        goes_on = was_stopped and jobs.require(database, job).state != "stopped"
    if as_json:
        print_json({"id": job, "retried": n, "goes_on": goes_on})
    elif n:
        say(f"{counted(n, 'text')} of job {job} will be tried again.")
    elif goes_on:
        say(f"Job {job} goes on. Its doubtful results so far no longer count against --max-flagged.")
    else:
        say(f"Job {job} has nothing to try again.")
    return OK
