"""`docmill wait`: wait for a job to end."""

from __future__ import annotations

import click

from docmill.worker.cli import formatting
from docmill.worker.cli.context import open_store, settings_from
from docmill.worker.cli.options import JOB, JSON
from docmill.worker.cli.printing import print_json, say
from docmill.worker.prices import read_prices


@click.command("wait", epilog="Example: docmill wait 7 && docmill results 7 --out results.jsonl")
@JOB
@JSON
def wait_command(job: int, as_json: bool) -> int:
    """Wait for JOB to end.

    Exit code 0: every document has its result; 1: some documents failed; 4: some records were rejected and nothing
    failed. If every worker refuses the job for more than a minute, it is blocked: the command ends with exit code 1.

    "cost" is the price of the job's tokens, if DOCMILL_PRICES names a file with prices.
    """
    from docmill.worker.cli.exit_codes import exit_code_of
    from docmill.worker.cli.follow import follow

    settings = settings_from()
    prices = read_prices(settings)
    with open_store(settings) as database:
        status = follow(database, job)
    cost = prices.cost_of(status)
    if as_json:
        print_json(formatting.as_json(status) | formatting.cost_as_json(cost))
    else:
        say(formatting.summary(status, cost))
    return exit_code_of(status)
