"""`docmill failures`: list the documents of a job that have no result."""

from __future__ import annotations

import click

from docmill.worker.cli.context import open_store, settings_from
from docmill.worker.cli.exit_codes import OK
from docmill.worker.cli.formatting import printable
from docmill.worker.cli.options import JOB
from docmill.worker.cli.output_files import STDOUT, write_out
from docmill.worker.cli.printing import answer, say


@click.command("failures", epilog="Example: docmill failures 7 --json | jq .reason")
@JOB
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
def failures_command(job: int, as_json: bool) -> int:
    """List failed documents, blank documents and rejected records of JOB, with the reasons."""
    from docmill.storage.results.results import failures
    from docmill.storage.writers.delimited import escape_formula

    with open_store(settings_from()) as database:
        found = failures(database, job)
        if as_json:
            write_out(STDOUT, found)
            return OK
        none = True
        for row in found:
            none = False
            fields = (row["id"], row["status"], row["class"], row["reason"])
            answer("\t".join(printable(escape_formula(field), keep="") if field else "-" for field in fields))
        if none:
            say(f"Job {job} has no failures.")
    return OK
