"""`docmill priority`: put a job before or behind others."""

from __future__ import annotations

import click

from worker.cli import job_control
from worker.cli.options import JOB, JSON


@click.command("priority", epilog="Example: docmill priority 7 10")
@JOB
@click.argument("priority", type=click.IntRange(-(2**31), 2**31 - 1))
@JSON
def priority_command(job: int, priority: int, as_json: bool) -> int:
    """Give JOB another PRIORITY; higher goes first, and jobs of one priority share the workers evenly.

    Below zero needs two dashes before it: docmill priority -- 7 -5.
    """
    from storage.steps import jobs

    return job_control.apply(
        lambda database: jobs.prioritise(database, job, priority), job, f"at priority {priority}", as_json
    )
