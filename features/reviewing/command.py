"""`docmill review`: judge a sample of a job's outputs, and estimate the share of good ones."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from pathlib import Path

import click

from docmill.features.reviewing import LIBRARY
from docmill.features.reviewing.judgements import judged_results
from docmill.features.reviewing.population import reviewed_step
from docmill.features.reviewing.risk import fit
from docmill.features.reviewing.session import SUFFIXES, Review, read, rows_of, write_csv, write_json
from docmill.storage.core.database import Database
from docmill.storage.results.status import read_status
from docmill.storage.steps import fitted_risks
from docmill.storage.writers.formats import whole_file
from docmill.worker.cli.options import JOB, JSON, FilledPath, WholeNumber, settings_from
from docmill.worker.cli.printing import OK, print_json, print_rich, say
from docmill.worker.jobs.outputs import check_out
from docmill.worker.stores import open_store

FILE = FilledPath(dir_okay=False, path_type=Path)


@click.command(
    "review",
    epilog="Examples: docmill review 7, docmill review 7 --summary --json, or docmill review 7 --export a.csv",
)
@JOB
@click.option("--step", help="Review this step of a job with several steps; the last one if not given.")
@click.option("--size", type=WholeNumber(1, 1_000_000), default=100, show_default=True, help="Size of the sample.")
@click.option(
    "--seed",
    type=WholeNumber(0, 2**31 - 1),
    help="Draw another sample.  [default: that of earlier judgements, else 0]",
)
@click.option("--by", help="Name of the person who judges.  [default: the user's name]")
@click.option("--summary", is_flag=True, help="Print the estimates, and judge nothing.")
@click.option("--export", "export", type=FILE, help="Write the sample to this file for judging: .csv or .json.")
@click.option("--import", "imported", type=FILE, help="Store the verdicts in this judged file: .csv or .json.")
@click.option("--fit", "fitted", is_flag=True, help="Fit the risk that an output is bad; needs 200 judgements.")
@JSON
def review_command(
    job: int,
    step: str | None,
    size: int,
    seed: int | None,
    by: str | None,
    summary: bool,
    export: Path | None,
    imported: Path | None,
    fitted: bool,
    as_json: bool,
) -> int:
    """Judge a sample of JOB's outputs, and estimate the share of all outputs that are good.

    The command shows an output beside its input and waits for a key: g good, b bad, s skip, n note, u undo, q quit.
    Without a terminal, it reads a line for each output: the letter, then an optional note. Then it prints the
    estimated share of good outputs with its 95 % interval: of all outputs, and for each flag.

    The sample has relatively more doubtful outputs than the job, and the estimate corrects for that. Each judgement
    is stored at once, and the same command continues the review. A judgement holds for every job with the same text
    and spec.

    --export writes the outputs of the sample that nobody has judged: as CSV with an empty column for the verdict, or
    as JSON tasks for Label Studio. --import reads the judged file; export it from Label Studio as JSON or JSON-MIN.

    --fit fits a logistic regression to all judgements of the step's spec. It gives the risk that an output is bad, by
    its flags, confidence and lengths. docmill results JOB --risk writes it, and --risk-above 0.2 selects by it.
    """
    modes = {"--summary": summary, "--export": export is not None, "--import": imported is not None, "--fit": fitted}
    modes_given = [name for name, is_given in modes.items() if is_given]
    if len(modes_given) > 1:
        raise click.UsageError(f"{' and '.join(modes_given)} exclude each other; give one of them")
    for file, option in ((export, "--export"), (imported, "--import")):
        _check_suffix(file, option)
    if export is not None:
        check_out(export, "csv" if export.suffix.lower() == ".csv" else "jsonl", name="--export")
    LIBRARY.require("`docmill review`")
    with open_store(settings_from()) as database:
        if fitted:
            _fit(database, job, step, as_json=as_json)
            return OK
        _say_if_unfinished(database, job)
        review = Review.of(database, job, step, seed)
        if export is not None:
            _export(review, export, size)
            return OK
        if imported is not None:
            n = review.take(read(imported), by or _user())
            say(f"Stored {n:,} judgement{'s' * (n != 1)} from {imported}.")
        elif not summary:
            from docmill.features.reviewing.terminal import judge

            judge(review, size, by or _user())
        _print(review, as_json=as_json)
    return OK


def _check_suffix(file: Path | None, option: str) -> None:
    if file is not None and file.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"{file} is neither .csv nor .json, which Label Studio reads", param_hint=option)


def _say_if_unfinished(database: Database, job: int) -> None:
    status = read_status(database, job)
    if not status.ended:
        say(f"Job {job} is not finished: the sample is drawn from its outputs so far.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def _export(review: Review, file: Path, size: int) -> None:
    write = write_csv if file.suffix.lower() == ".csv" else write_json
    rows = rows_of(review.items(review.waiting(size)), review.seed)
    with whole_file(file) as opened:
        n = write(rows, opened)
    say(f"Wrote {n:,} outputs to {file}. Judge them, then give the file to --import.")


def _print(review: Review, *, as_json: bool) -> None:
    summary = review.summary()
    if as_json:
        print_json(
            {"job": review.reviewed.job, "step": review.reviewed.step.name, "seed": review.seed, **asdict(summary)}
        )
        return
    from docmill.features.reviewing.terminal import shares_table

    print_rich(shares_table(summary))
    if (more := summary.judged - summary.counted) > 0:
        say(
            f"{more:,} judgements do not count yet: the sample has outputs before them that nobody has seen. "
            f"`docmill review {review.reviewed.job}` shows these outputs."
        )


def _fit(database: Database, job: int, step: str | None, *, as_json: bool) -> None:
    reviewed_step(database, job, step)  # else it cannot be judged
    spec_id = fitted_risks.spec_with_risk(database, job, step)
    risk = fitted_risks.store(database, spec_id, fit(judged_results(database, spec_id)))
    if as_json:
        print_json({"job": job, **asdict(risk)})
        return
    from docmill.features.reviewing.terminal import risk_table

    print_rich(risk_table(risk))
    say(f"`docmill results {job} --risk` writes the risk of each output.")
