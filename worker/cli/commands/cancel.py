"""`docmill cancel`: stop a job."""

from __future__ import annotations

import click

from docmill.worker.cli import job_control
from docmill.worker.cli.options import JOB, JSON


@click.command("cancel", epilog="Example: docmill cancel 7")
@JOB
@JSON
def cancel_command(job: int, as_json: bool) -> int:
    """Stop JOB. Finished results stay; work in progress is dropped."""
    from docmill.storage.steps import jobs

    return job_control.apply(lambda database: jobs.cancel(database, job), job, "cancelled", as_json, key="cancelled")
