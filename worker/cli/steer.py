"""Commands that change how a job goes on: hold it, let it go on, put it before or behind others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from worker.cli.faults import OK
from worker.cli.jobs import JOB, JSON
from worker.cli.session import open_store, print_json, say, settings_from

if TYPE_CHECKING:
    from storage.database import Database


@click.command("pause", epilog="Example: docmill pause 7")
@JOB
@JSON
def pause_command(job: int, as_json: bool) -> int:
    """Let nothing of JOB move until `docmill resume JOB`. What is done stays; what is under way is dropped.

    Workers notice within seconds and turn to other jobs.
    """
    from storage import jobs

    return _steer(lambda database: jobs.pause(database, job), job, "paused", as_json)


@click.command("resume", epilog="Example: docmill resume 7")
@JOB
@JSON
def resume_command(job: int, as_json: bool) -> int:
    """Let a paused JOB go on."""
    from storage import jobs

    return _steer(lambda database: jobs.resume(database, job), job, "resumed", as_json)


@click.command("priority", epilog="Example: docmill priority 7 10")
@JOB
@click.argument("priority", type=click.IntRange(-(2**31), 2**31 - 1))
@JSON
def priority_command(job: int, priority: int, as_json: bool) -> int:
    """Give JOB another PRIORITY; higher goes first, and jobs of one priority share the workers evenly.

    Below zero needs two dashes before it: docmill priority -- 7 -5.
    """
    from storage import jobs

    return _steer(lambda database: jobs.prioritise(database, job, priority), job, f"at priority {priority}", as_json)


def _steer(act: Callable[[Database], bool], job: int, became: str, as_json: bool) -> int:
    """Do it and say what became of the job; one that had ended is left as it is."""
    with open_store(settings_from()) as database:
        changed = act(database)
    if as_json:
        print_json({"id": job, "changed": changed})
    else:
        say(f"Job {job} is {became}." if changed else f"Job {job} had ended already.")
    return OK
