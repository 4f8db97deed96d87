"""`docmill status`: show a job's progress."""

from __future__ import annotations

import click

from docmill.worker.cli import formatting
from docmill.worker.cli.context import open_store, settings_from
from docmill.worker.cli.exit_codes import OK
from docmill.worker.cli.options import JOB_ID, JSON
from docmill.worker.cli.printing import answer_values, print_json
from docmill.worker.prices import read_prices


@click.command("status", epilog="Examples: docmill status, or docmill status 7 --watch")
@click.argument("job", type=JOB_ID, required=False)
@click.option("--watch", is_flag=True, help="Keep showing progress until the job ends.")
@JSON
def status_command(job: int | None, watch: bool, as_json: bool) -> int:
    """Show JOB's progress: counts, tokens per second, time left, and the reason if it makes none.

    Without JOB it shows the latest job; docmill jobs lists all.

    "flags" says how many results carry each flag: first those that make an output doubtful, then other remarks.
    "escalated" says how many texts --escalate computed again, how many of these results were kept, and the time
    that both models took beside the better model alone. "cost" is the price of the job's tokens, if DOCMILL_PRICES
    names a file with prices.
    """
    from docmill.storage.results.job_counts import count_escalated, count_flags
    from docmill.storage.results.status import read_status
    from docmill.storage.steps import jobs
    from docmill.storage.steps.replacements import remark

    settings = settings_from()
    prices = read_prices(settings)
    with open_store(settings) as database:
        job = job or jobs.latest(database)
        if watch:
            from docmill.worker.cli.follow import follow  # brings Celery along, which takes a while

            status = follow(database, job)
        else:
            status = read_status(database, job)
        flags, escalated = count_flags(database, job), count_escalated(database, job)
        migration = remark(database, job)
    cost = prices.cost_of(status)
    if as_json:
        counts = formatting.flags_as_json(flags) | formatting.escalated_as_json(escalated)
        counts |= formatting.cost_as_json(cost) | ({"migration": migration} if migration else {})
        print_json(formatting.as_json(status) | counts)
    else:
        shown = formatting.of_status(status, flags, escalated, cost)
        answer_values(shown | ({"migration": formatting.printable(migration)} if migration else {}))
    return OK
