"""`docmill report`: write a page about a job."""

from __future__ import annotations

from pathlib import Path

import click

from docmill.worker.cli.options import JOB, FilledPath
from docmill.worker.cli.printing import listen, say
from docmill.worker.extras import EXTRAS
from docmill.worker.jobs.outputs import STDOUT, require_target
from docmill.worker.settings import load_settings
from docmill.worker.stores import open_store


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
    if target == STDOUT:
        raise click.UsageError("--out: a report needs a file; name one")
    require_target(target, "jsonl")
    EXTRAS["report"].require("A report")
    from docmill.features.reports.page import write

    settings = load_settings()
    with open_store(settings) as database:
        write(settings, database, job, target, with_text=not no_text, listener=listen())
    say(f"Wrote the report on job {job} to {target}.")
