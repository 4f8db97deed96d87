"""`docmill jobs`: list the latest jobs."""

from __future__ import annotations

import click

from docmill.worker.cli import formatting
from docmill.worker.cli.context import open_store, settings_from
from docmill.worker.cli.exit_codes import OK
from docmill.worker.cli.options import JSON, LATEST
from docmill.worker.cli.printing import print_json, say


@click.command("jobs", epilog="Example: docmill jobs --json")
@LATEST
@JSON
def jobs_command(limit: int, as_json: bool) -> int:
    """List the latest jobs, newest first."""
    from docmill.storage.results.status import list_statuses

    with open_store(settings_from()) as database:
        statuses = list_statuses(database, limit)
    if as_json:
        print_json([formatting.as_json(status) for status in statuses])
    elif statuses:
        from docmill.worker.cli import show

        show.paper.print(show.jobs(statuses))
    else:
        say("No jobs yet; `docmill run SOURCE --task summarize` makes one.")
    return OK
