"""`docmill pause`: hold a job."""

from __future__ import annotations

import click

from docmill.worker.cli import job_control
from docmill.worker.cli.options import JOB, JSON


@click.command("pause", epilog="Example: docmill pause 7")
@JOB
@JSON
def pause_command(job: int, as_json: bool) -> int:
    """Pause JOB until `docmill resume JOB`. Finished results stay; work in progress is dropped.

    Workers notice within seconds and turn to other jobs.
    """
    from docmill.storage.steps import jobs

    return job_control.apply(lambda database: jobs.pause(database, job), job, "paused", as_json)
