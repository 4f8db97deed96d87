"""`docmill resume`: resume a paused job."""

from __future__ import annotations

import click

from docmill.worker.cli import job_control
from docmill.worker.cli.options import JOB, JSON


@click.command("resume", epilog="Example: docmill resume 7")
@JOB
@JSON
def resume_command(job: int, as_json: bool) -> int:
    """Resume a paused JOB."""
    from docmill.storage.steps import jobs

    return job_control.apply(lambda database: jobs.resume(database, job), job, "resumed", as_json)
