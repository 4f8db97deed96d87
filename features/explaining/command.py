"""`docmill explain`: show how docmill computed one result."""

from __future__ import annotations

import click

from docmill.features.explaining.explanation import Explanation, cutter, explain
from docmill.features.explaining.explanation import as_json as write_json
from docmill.features.explaining.provenance import read_provenance
from docmill.features.explaining.terminal import ExplanationSections
from docmill.storage.core.database import Database
from docmill.storage.extras import CHECKS
from docmill.worker.cli.options import JOB, JSON, settings_from
from docmill.worker.cli.printing import OK, print_json, print_rich, say
from docmill.worker.stores import open_store


@click.command("explain", epilog="Example: docmill explain 7 a17 --json | jq .windows")
@JOB
@click.argument("document", metavar="ID")
@click.option("--step", help="Explain this step of a job with several steps.")
@click.option("--full", is_flag=True, help="Show long texts, and all windows.")
@JSON
def explain_command(job: int, document: str, step: str | None, full: bool, as_json: bool) -> int:
    """Show how docmill computed the result of the document ID in JOB.

    The command shows the document with its metadata, the windows of the text with their prompts, the output, its
    flags and their meaning, and the revision of the weights, the adapter, precision, backend, versions, device,
    worker and times. If the document has no result, it says why.

    To show windows, the command needs the model's tokenizer on this machine. For a job with several steps it
    explains the last one with a result.
    """
    CHECKS.require("`docmill explain`")
    settings = settings_from()
    with open_store(settings) as database:
        explanation = explain(
            read_provenance(database, job, document, step), cutter(settings.models_dir, settings.cache_dir)
        )
        if as_json:
            print_json(write_json(explanation))
        else:
            _show(database, explanation, full=full)
    return OK


def _show(database: Database, explanation: Explanation, *, full: bool) -> None:
    outputs = {step.name: database.kind_of(step.spec.kind).output for step in explanation.provenance.way}
    for part in ExplanationSections(explanation, outputs, full=full).sections():
        print_rich(part)
    if explanation.note is not None:
        say(explanation.note)
