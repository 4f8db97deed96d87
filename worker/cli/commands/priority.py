"""`docmill priority`: change a job's priority."""

from __future__ import annotations

import click

from docmill.worker.cli import job_control
from docmill.worker.cli.declared_options import click_type
from docmill.worker.cli.options import JOB, JSON
from docmill.worker.submit.options import JobOptions


@click.command("priority", epilog="Example: docmill priority 7 10")
@JOB
@click.argument("priority", type=click_type(JobOptions.model_fields["priority"]))
@JSON
def priority_command(job: int, priority: int, as_json: bool) -> int:
    """Change the priority of JOB. A higher PRIORITY goes first; jobs of equal priority share the workers evenly.

    Put two dashes before a negative priority: docmill priority -- 7 -5.
    """
    from docmill.storage.steps import jobs

    return job_control.apply(
        lambda database: jobs.prioritise(database, job, priority), job, f"at priority {priority}", as_json
    )
