"""`docmill explain`: show how one result came to be."""

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
    """Show how the result of the document ID in JOB came to be.

    The command shows the document with its metadata, the windows that the text was cut into and the prompt of each as
    the model read it, the output, its flags and their meaning, and what computed it: the revision of the weights, the
    adapter, precision, backend, versions, device, worker and times. Of a document without a result it says why.

    The windows are not stored. They are cut again by the model's tokenizer, without its weights; where the model is
    not on this machine, the command says so. Of a job with several steps the last one with a result is explained.
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
