"""`docmill results`: write the results of a job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from docmill.storage import writers
from docmill.storage.core.database import Database
from docmill.storage.errors import StorageError
from docmill.storage.outputs.columns import Column, Form
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps import fitted_risks
from docmill.storage.steps.conditions import DOUBTS, Flagged
from docmill.storage.steps.replacements import find_answering_job
from docmill.storage.writers import Target
from docmill.worker import formatting
from docmill.worker.cli.options import DETAILS, FORMAT, JOB_OR_CORPUS, WITH_INPUT, FilledPath, declared, named, number
from docmill.worker.cli.printing import OK, listen, say, write_out
from docmill.worker.exports import read_table
from docmill.worker.formatting import counted
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.jobs.outputs import STDOUT, check_kinds, check_takes_inputs, require_target
from docmill.worker.jobs.results import describe_removed, write_parts
from docmill.worker.pipelines.schema import OutputTable
from docmill.worker.settings import load_settings
from docmill.worker.stores import corpus_names, open_store
from docmill.worker.terminal import warn


def _flags(value: str | Flagged) -> Flagged:
    """Return the condition in flags and bounds of numbers with commas between them."""
    if isinstance(value, Flagged):
        return value
    try:
        return Flagged.parse(value.split(","))
    except StorageError as error:
        if value.isdecimal():
            advice = f"{value} is not a flag; write JOB before it: docmill results {value} --flagged"
            raise ValueError(advice) from error
        raise ValueError(f"{error}; without a name it stands for all doubtful ones") from error


FLAGS = named("CONDITION,…", _flags)


@click.command(
    "results",
    epilog="Examples: docmill results 7 --out summaries.jsonl, docmill results 7 --flagged, docmill results 7 "
    "--unflagged --out good.parquet, or docmill results 7 --out summaries --format parquet --part-documents 100000",
)
@click.argument("job", type=JOB_OR_CORPUS, metavar="JOB|CORPUS")
@click.option(
    "--out",
    type=FilledPath(allow_dash=True, path_type=Path),
    default=STDOUT,
    help="Write to this file instead of stdout; with --part-documents, to this folder.",
)
@FORMAT
@declared(OutputTable, "part_documents")
@click.option("--overwrite", is_flag=True, help="Replace the parts of another export in that folder.")
@click.option("--step", help="Write only this step of a job with several steps.")
@click.option(
    "--flagged",
    type=FLAGS,
    is_flag=False,
    flag_value=DOUBTS,
    help="Write only results with a doubtful flag, or with one of these: FLAG,FLAG,confidence<0.4.",
)
@click.option(
    "--unflagged",
    type=FLAGS,
    is_flag=False,
    flag_value=DOUBTS,
    help="Write only results without any doubtful flag, or without these flags and bounds.",
)
@click.option("--risk", is_flag=True, help="Write the risk that each output is bad, from docmill review fit JOB.")
@click.option("--risk-above", type=number(0, 1), help="Write only results with a higher risk, with the risk.")
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Also write failed, skipped and rejected inputs, each with its outcome and reason.",
)
@WITH_INPUT
@DETAILS
@click.option("--partial", is_flag=True, help="Write the finished results of a job that has not ended.")
def results_command(job: int | str, **options: Any) -> int:
    """Write JOB's results, in the order of the source.

    CORPUS means its latest job, or after a migration the job of the model in use.

    CSV and Excel are for people: a row for every document and rejected record, with the output, and remarks on
    flags and failures. In CSV docmill puts an apostrophe before a value that a spreadsheet would read as a formula.
    In Excel it writes the length of a vector, and cuts a text that is too long for a cell.

    A JSON line has "id", "task", the output ("text" or "vector"), "tokens_in", "tokens_out", "flags", "meta" (the
    record's other fields) and, if known, "confidence". Parquet, and CSV and Excel with --details, have the same
    fields as columns. vectors.npy is one float32 array, with the ids in vectors.ids.jsonl. For a job with several
    steps, a line has "id", "steps" (by name), "flags" and "meta", and a table has the columns of every step; --step
    writes one step as above. A file appears under its name only when it is complete.

    These formats leave out documents without a result. --all also writes these and rejected records: each line has
    an "outcome" (done, failed, skipped, blocked, rejected, superseded, left out, pending or not computed) and a
    "reason".

    --flagged writes the doubtful results, --unflagged the others; both leave out documents without a result. A
    result without a confidence does not meet a bound such as confidence<0.4. For a job with several steps, a flag
    of any step counts; with --step only that step's. docmill status JOB says how many results have each flag.
    --risk and --risk-above need docmill review fit JOB first.

    With --part-documents the folder gets part-00000.jsonl (or .csv, .parquet, .xlsx, .npy with its ids; compressed if
    the folder's name ends in .gz or .zst) and so on, and manifest.json, which lists the parts. The same command
    again keeps the finished parts and writes the missing ones. If the results have changed since, it writes all
    parts again.
    """
    wanted = Export(**options)
    target = wanted.check()
    with open_store(load_settings()) as database:
        number = job if isinstance(job, int) else find_answering_job(database, corpus_names(job))
        status = read_status(database, number)
        refused = describe_pending(wanted, status)
        if refused is None and not wanted.every:
            refused = describe_removed(database, status, wanted.step)
        if refused is not None:
            warn(refused)
            return BAD_INPUT
        kinds = kinds_of(status, wanted.step)
        check_kinds(target, kinds)
        if wanted.with_risk and len(kinds) > 1:
            raise click.UsageError("a risk belongs to the outputs of one step; name it with --step")
        _write(database, status, target, wanted)
    for remark in remarks(status):
        say(remark)
    return OK


@dataclass(frozen=True)
class Export:
    """The arguments of the command: a file (or `-`), or a folder for parts of so many documents."""

    out: Path
    file_format: str | None = None
    part_documents: int | None = None
    overwrite: bool = False
    step: str | None = None
    partial: bool = False
    flagged: Flagged | None = None
    unflagged: Flagged | None = None
    risk: bool = False
    risk_above: float | None = None
    every: bool = False
    with_input: bool = False
    details: bool = False

    @property
    def with_risk(self) -> bool:
        return self.risk or self.risk_above is not None

    @property
    def condition(self) -> Flagged | None:
        """The condition on the results; None for all results."""
        if self.flagged is not None:
            return self.flagged
        return None if self.unflagged is None else replace(self.unflagged, lacking=True)

    def check(self) -> Target:
        """Return the file or the folder. Refuses options that exclude each other."""
        if self.flagged is not None and self.unflagged is not None:
            raise click.UsageError("--flagged and --unflagged exclude each other; leave one out")
        if self.every and (self.condition is not None or self.with_risk or self.part_documents is not None):
            raise click.UsageError(
                "--all writes every input, into one file; leave out --flagged, --unflagged, --risk, --risk-above and "
                "--part-documents"
            )
        if self.part_documents is not None and self.partial:
            raise click.UsageError("--partial is for one file: what comes later would be missing in earlier parts")
        if self.part_documents is not None and self.with_risk:
            raise click.UsageError("--risk is for one file: parts could have risks of different versions")
        if self.part_documents is not None and (self.with_input or self.details):
            raise click.UsageError("--with-input and --details are for one file; leave --part-documents out")
        if self.part_documents is None and self.overwrite:
            raise click.UsageError("--overwrite is for parts; a single file is replaced in any case")
        if self.part_documents is None and self.out.is_dir():
            advice = "--part-documents N writes parts into it"
            raise click.BadParameter(f"{self.out} is a folder; {advice}", param_hint="--out")
        target = require_target(self.out, self.file_format, parts=self.part_documents is not None)
        if self.with_input:
            check_takes_inputs(target)
        if self.every and target.writer.takes is not None:
            names = ", ".join(writers.names(any_output=True))
            advice = f"{target.writer.name} has no place for inputs without a result; --all takes {names}"
            raise click.BadParameter(advice, param_hint="--out")
        return target


def kinds_of(status: JobStatus, step: str | None) -> list[str]:
    """Return the kinds of the steps whose results are written."""
    return [each.spec.kind for each in status.steps if len(status.steps) == 1 or step in {None, each.name}]


def describe_pending(wanted: Export, status: JobStatus) -> str | None:
    """Return a sentence if the job must end before its results can be written; None if they can be."""
    if not status.ended and not wanted.partial and wanted.part_documents is None:
        pending = f"{counted(status.pending, 'text')} to do"
        return f"Job {status.id} is not finished ({pending}); --partial writes what there is."
    return None


def remarks(status: JobStatus) -> list[str]:
    """Return sentences on documents of the job that have no result; none if all have theirs."""
    said = []
    if (gone := formatting.lost(status)) is not None:
        said.append(f"{gone[0].upper()}{gone[1:]}.")
    if status.state in {"cancelled", "stopped"} and (lacking := status.texts - status.done):
        said.append(f"Job {status.id} was {status.state}: {lacking:,} of its {status.texts:,} texts have no result.")
    if status.failed or status.skipped or status.rejected or status.state != "done":
        said.append(formatting.summary(status))
    return said


def none_said(job: int, condition: Flagged) -> str:
    """Return the message that no result of a job meets a condition."""
    if not condition.bounds:
        does = "lacks" if condition.lacking else "carries"
        return f"No result of job {job} {does} such flags; `docmill status {job}` counts them."
    advice = f"`docmill results {job}` writes all, with the numbers that the model gave"
    return f"No result of job {job} is {condition}; {advice}."


def _write(database: Database, status: JobStatus, target: Target, wanted: Export) -> None:
    if wanted.part_documents is not None:
        n = wanted.part_documents
        of = wanted.condition
        write_parts(database, status, target, n, listen(), step=wanted.step, replaced=wanted.overwrite, flagged=of)
        return
    table = read_table(
        database,
        status.id,
        target.writer,
        step=wanted.step,
        with_input=wanted.with_input,
        details=wanted.details,
        every=wanted.every,
        flagged=wanted.condition,
    )
    rows, columns = table.rows, table.columns
    if wanted.condition is not None:
        rows, is_none = _peeked(rows)
        if is_none:
            say(none_said(status.id, wanted.condition))
    if wanted.with_risk:
        risk = fitted_risks.read_latest(database, status.id, wanted.step)
        rows = fitted_risks.with_risk(rows, risk.model, wanted.risk_above)
        columns = (*columns, Column.of("risk", Form.NUMBER))
    written = write_out(rows, target, columns, table.most_rows(status), table.noun)
    if table.has_every_input or wanted.condition is not None or wanted.risk_above is not None:
        return
    if (left := formatting.not_written(status, written)) is not None:
        say(left)


def _peeked(rows: Iterator[dict[str, Any]]) -> tuple[Iterator[dict[str, Any]], bool]:
    """Return the rows again, and True if there are none."""
    first = [*islice(rows, 1)]
    return chain(first, rows), not first
