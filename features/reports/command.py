"""`docmill report`: write a page about a job."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from docmill.features.reports.facts import Facts, gather
from docmill.storage.core.database import Database
from docmill.storage.results.status import JobStatus, read_status
from docmill.worker.cli.options import JOB, FilledPath, settings_from
from docmill.worker.cli.printing import listen, say
from docmill.worker.extras import EXTRAS
from docmill.worker.jobs.outputs import check_out
from docmill.worker.jobs.results import SHOWN_EVERY, WritingBar
from docmill.worker.prices import read_prices
from docmill.worker.stores import open_store
from docmill.worker.web.marks import ChecksOf, checks_of


@click.command("report", epilog="Example: docmill report 7 --out report.html")
@JOB
@click.option(
    "--out",
    type=FilledPath(dir_okay=False, path_type=Path),
    default=None,
    help="Write the page to this file; report-JOB.html in this folder if not given.",
)
@click.option("--no-text", is_flag=True, help="Leave out texts, ids of documents and reasons of failures.")
def report_command(job: int, out: Path | None, no_text: bool) -> None:
    """Write a page of HTML about JOB, for people who do not use the command line.

    The page shows the models, workers and cost of the job, the savings by repeated texts and earlier
    results, the distributions of lengths, flags with examples side by side, and failures by reason. It is one file,
    needs no network and runs no script. It contains texts of documents, unless you give --no-text.
    """
    target = Path(f"report-{job}.html") if out is None else out
    check_out(target, "jsonl")
    EXTRAS["report"].require("A report")
    from docmill.features.reports.page import write

    settings = settings_from()
    prices = read_prices(settings)
    with open_store(settings) as database:
        status = read_status(database, job)
        facts = _gather(database, status, partial(checks_of, settings), with_text=not no_text)
    write(target, facts, prices.cost_of(status))
    say(f"Wrote the report on job {job} to {target}.")


def _gather(database: Database, status: JobStatus, checks_of: ChecksOf, *, with_text: bool) -> Facts:
    with WritingBar(listen()) as shown:

        def seen(n: int) -> None:
            if n % SHOWN_EVERY == 0:
                shown.update(n, status.documents, "documents read")

        return gather(database, status, with_text=with_text, seen=seen, checks_of=checks_of)
