"""`docmill wait`: wait for a job to end."""

from __future__ import annotations

import click

from worker.cli import formatting
from worker.cli.context import open_store, settings_from
from worker.cli.options import JOB, JSON
from worker.cli.printing import print_json, say


@click.command("wait", epilog="Example: docmill wait 7 && docmill results 7 --out results.jsonl")
@JOB
@JSON
def wait_command(job: int, as_json: bool) -> int:
    """Wait for JOB to end; exit code 0 when every document has its result, 1 when some failed, 4 when only
    records were rejected.

    A job that every worker refuses for more than a minute is blocked: it is waited for no longer, with exit code 1.
    """
    from worker.cli.exit_codes import exit_code_of
    from worker.cli.follow import follow

    with open_store(settings_from()) as database:
        status = follow(database, job)
    if as_json:
        print_json(formatting.as_json(status))
    else:
        say(formatting.summary(status))
    return exit_code_of(status)
