"""`docmill attach`: follow a job, and leave it without ending it."""

from __future__ import annotations

import click

from worker.cli import formatting
from worker.cli.context import open_store, settings_from
from worker.cli.exit_codes import SOME_FAILED
from worker.cli.options import JOB, JSON
from worker.cli.printing import print_json, say, warn


@click.command("attach", epilog="Example: docmill run notes/ --task summarize --detach && docmill attach 1")
@JOB
@JSON
def attach_command(job: int, as_json: bool) -> int:
    """Follow JOB with a bar until it ends: a detached run's job, or one that a fleet computes.

    Ctrl-C leaves the job, which goes on. The exit code is that of a detached run, and of any other job that of
    `docmill wait`. If a detached run crashed, the command says where its log is, and ends with exit code 1.
    """
    from worker.cli.attaching import RunEnded, attach

    settings = settings_from()
    with open_store(settings) as database:
        try:
            status, code = attach(settings, database, job)
        except RunEnded as error:
            warn(f"docmill: {error}")
            return SOME_FAILED
        except KeyboardInterrupt:
            say(f"Left job {job} as it is. Follow it again: docmill attach {job}")
            return 130
    if as_json:
        print_json(formatting.as_json(status))
    else:
        say(formatting.summary(status))
    return code
