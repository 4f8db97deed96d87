"""`docmill results`: write the results of a job."""

from __future__ import annotations

from pathlib import Path

import click

from worker.cli import formatting
from worker.cli.context import open_store, settings_from
from worker.cli.exit_codes import BAD_INPUT, OK
from worker.cli.options import FORMAT, JOB
from worker.cli.output_files import STDOUT, check_folder, check_out, target_of, write_out
from worker.cli.printing import say


@click.command(
    "results",
    epilog="Example: docmill results 7 --out summaries.jsonl, or docmill results 7 --out summaries "
    "--format parquet --part-documents 100000",
)
@JOB
@click.option(
    "--out",
    type=click.Path(allow_dash=True, path_type=Path),
    default=STDOUT,
    help="A file instead of stdout; with --part-documents a folder.",
)
@FORMAT
@click.option(
    "--part-documents",
    type=click.IntRange(1, 2**31 - 1),
    metavar="N",
    help="Write parts of N documents each into the folder --out; the same command again goes on with them.",
)
@click.option("--overwrite", is_flag=True, help="Replace the parts of another export in that folder.")
@click.option("--step", help="Only this one, of a job with several steps.")
@click.option("--partial", is_flag=True, help="What there is, of a job that has not ended.")
def results_command(
    job: int,
    out: Path,
    asked: str | None,
    part_documents: int | None,
    overwrite: bool,
    step: str | None,
    partial: bool,
) -> int:
    """Write JOB's results, in the order of the source.

    As JSON lines, each has "id", "task", "text" or "vector", "tokens_in", "tokens_out", "flags" and "meta" (the
    record's other fields). CSV and Parquet have the same as columns; "meta", and in CSV the lists, as JSON. In CSV
    an apostrophe stands before what a spreadsheet would take for a formula. vectors.npy is one float32 array, with
    the ids in vectors.ids.jsonl. Of a job with several steps a line has "id", "steps" (by their names), "flags" and
    "meta", and a table a column for each step; --step gives one of them as above. A file appears under its name only
    when it is whole.

    With --part-documents the folder gets part-00000.jsonl (or .csv, .parquet, .npy with its ids; .gz and .zst where
    the folder's name ends in that) and so on, and manifest.json, which lists them. The same command again keeps the
    parts that are there, goes on where the last one ends, and does nothing once all are. When the results have
    changed since, all are written anew.
    """
    from storage.export.results import export_rows, results
    from storage.status import read_status

    check = check_out if part_documents is None else check_folder
    if part_documents is not None and partial:
        raise click.UsageError("--partial is for one file: what comes later would be missing in earlier parts")
    if part_documents is None and overwrite:
        raise click.UsageError("--overwrite is for parts; a single file is replaced in any case")
    if part_documents is None and out.is_dir():
        raise click.BadParameter(f"{out} is a folder; --part-documents N writes parts into it", param_hint="--out")
    check(out, asked)
    with open_store(settings_from()) as database:
        status = read_status(database, job)
        if not status.ended and not partial and part_documents is None:
            say(f"Job {job} is not finished ({status.pending:,} texts to do); --partial writes what there is.")
            return BAD_INPUT
        done = sum(one.done for one in status.steps if step in {None, one.name})
        if done and next(results(database, job, step=step, limit=1), None) is None:
            say(f"The results of job {job} were removed since; run its source again to compute them anew.")
            return BAD_INPUT
        steps = {one.name: one.spec.kind for one in status.steps}
        task = status.spec.kind if len(steps) == 1 else steps.get(step or "", "")
        check(out, asked, task=task)
        target = target_of(out, asked)
        if target is not None and part_documents is not None:
            from worker.cli.parts import write_parts

            write_parts(database, status, target, part_documents, step=step, replaced=overwrite)
        else:
            form = asked or "jsonl" if target is None else target.format
            write_out(out, export_rows(database, job, form, step=step), asked, status.documents)
    if (gone := formatting.lost(status)) is not None:
        say(f"{gone[0].upper()}{gone[1:]}.")
    if status.state in {"cancelled", "stopped"}:
        lacking = status.texts - status.done
        say(f"Job {job} was {status.state}: {lacking:,} of its {status.texts:,} texts have no result.")
    if status.failed or status.skipped or status.rejected or status.state != "done":
        say(formatting.summary(status))
    return OK
