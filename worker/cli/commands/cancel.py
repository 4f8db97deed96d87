"""`docmill cancel`: stop a job."""

from __future__ import annotations

import click

from worker.cli.context import open_store, settings_from
from worker.cli.exit_codes import OK
from worker.cli.options import JOB, JSON
from worker.cli.printing import print_json, say


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
