"""Commands about jobs that exist: how they stand, what they gave, trying again, stopping."""

from __future__ import annotations

from pathlib import Path

import click

from worker.cli import words
from worker.cli.faults import BAD_INPUT, OK
from worker.cli.session import (
    FORMAT,
    STDOUT,
    answer,
    answer_values,
    check_folder,
    check_out,
    open_store,
    print_json,
    say,
    settings_from,
    target_of,
    write_out,
)

JOB = click.argument("job", type=click.IntRange(1, 2**63 - 1))
JSON = click.option("--json", "as_json", is_flag=True, help="For machines.")


@click.command("jobs", epilog="Example: docmill jobs --json")
@click.option("--limit", type=click.IntRange(1, 2**31 - 1), default=20, show_default=True, help="Only the latest N.")
@JSON
def jobs_command(limit: int, as_json: bool) -> int:
    """List the latest jobs, newest first."""
    from storage.status import list_statuses

    with open_store(settings_from()) as database:
        statuses = list_statuses(database, limit)
    if as_json:
        print_json([words.as_json(status) for status in statuses])
    elif statuses:
        from worker.cli import show

        show.paper.print(show.jobs(statuses))
    else:
        say("No jobs yet; `docmill run SOURCE --task summarize` makes one.")
    return OK


@click.command("status", epilog="Example: docmill status 7 --watch")
@JOB
@click.option("--watch", is_flag=True, help="Keep showing progress until the job ends.")
@JSON
def status_command(job: int, watch: bool, as_json: bool) -> int:
    """Show how far JOB is: counts, tokens per second, time left, and what it waits for."""
    from storage.status import read_status

    with open_store(settings_from()) as database:
        if watch:
            from worker.cli.follow import follow  # brings Celery along, which takes a while

            status = follow(database, job)
        else:
            status = read_status(database, job)
    if as_json:
        print_json(words.as_json(status))
    else:
        answer_values(words.of_status(status))
    return OK


@click.command("wait", epilog="Example: docmill wait 7 && docmill results 7 --out results.jsonl")
@JOB
@JSON
def wait_command(job: int, as_json: bool) -> int:
    """Wait for JOB to end; exit code 0 when every document has its result, 1 when some failed, 4 when only
    records were rejected.

    A job that every worker refuses for more than a minute is blocked: it is waited for no longer, with exit code 1.
    """
    from worker.cli.follow import follow
    from worker.cli.work import exit_code_of

    with open_store(settings_from()) as database:
        status = follow(database, job)
    if as_json:
        print_json(words.as_json(status))
    else:
        say(words.summary(status))
    return exit_code_of(status)


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
    if (gone := words.lost(status)) is not None:
        say(f"{gone[0].upper()}{gone[1:]}.")
    if status.state in {"cancelled", "stopped"}:
        lacking = status.texts - status.done
        say(f"Job {job} was {status.state}: {lacking:,} of its {status.texts:,} texts have no result.")
    if status.failed or status.skipped or status.rejected or status.state != "done":
        say(words.summary(status))
    return OK


@click.command("failures", epilog="Example: docmill failures 7 --json | jq .reason")
@JOB
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
def failures_command(job: int, as_json: bool) -> int:
    """List what of JOB has no result: failed and blank documents and rejected records, with the reasons."""
    from storage.export.results import failures

    with open_store(settings_from()) as database:
        found = failures(database, job)
        if as_json:
            write_out(STDOUT, found)
            return OK
        none = True
        for row in found:
            none = False
            fields = (row["id"], row["status"], row["class"], row["reason"])
            answer("\t".join(words.cell(field) if field else "-" for field in fields))
        if none:
            say(f"Job {job} has no failures.")
    return OK


@click.command("retry", epilog="Example: docmill retry 7 --only transient && docmill wait 7")
@JOB
@click.option("--only", type=click.Choice(["transient", "document", "model"]), help="Only failures of this class.")
@JSON
def retry_command(job: int, only: str | None, as_json: bool) -> int:
    """Try JOB's failed documents again.

    transient: something around the work failed; document: the document's own doing; model: the model's. The
    failures stay on record until something better takes their place. Workers do the work; where none runs, the
    next `docmill run` or `docmill worker` does.
    """
    from storage import jobs

    with open_store(settings_from()) as database:
        n = jobs.retry(database, job, only)
    if as_json:
        print_json({"id": job, "retried": n})
    else:
        say(f"{n:,} texts of job {job} will be tried again." if n else f"Job {job} has nothing to try again.")
    return OK


@click.command("cancel", epilog="Example: docmill cancel 7")
@JOB
@JSON
def cancel_command(job: int, as_json: bool) -> int:
    """Stop JOB. What is done stays; what is under way is dropped."""
    from storage import jobs

    with open_store(settings_from()) as database:
        cancelled = jobs.cancel(database, job)
    if as_json:
        print_json({"id": job, "cancelled": cancelled})
    else:
        say(f"Job {job} is cancelled." if cancelled else f"Job {job} had ended already.")
    return OK
