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
from docmill.worker.cli.options import JOB, JSON, FilledPath, ModeGroup, WholeNumber, settings_from
from docmill.worker.cli.printing import OK, print_json, print_rich, say
from docmill.worker.formatting import counted
from docmill.worker.jobs.outputs import check_out
from docmill.worker.stores import open_store

FILE = FilledPath(dir_okay=False, path_type=Path)


def _check_suffix(_: click.Context, __: click.Parameter, file: Path) -> Path:
    if file.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"{file} is neither .csv nor .json, which Label Studio reads")
    return file


STEP = click.option("--step", help="Step to review, of a job with several steps.  [default: the last]")
SIZE = click.option(
    "--size", type=WholeNumber(1, 1_000_000), default=100, show_default=True, help="Size of the sample."
)
SEED = click.option(
    "--seed",
    type=WholeNumber(0, 2**31 - 1),
    help="Draw another sample.  [default: that of earlier judgements, else 0]",
)
BY = click.option("--by", help="Name of the person who judges.  [default: the user's name]")


@click.group(
    "review",
    cls=ModeGroup,
    old={"--summary": "summary", "--export": "export", "--import": "import", "--fit": "fit"},
    default="judge",
)
def review_command() -> None:
    """Judge a sample of a job's outputs, and estimate the share of all outputs that are good.

    The sample has relatively more doubtful outputs than the job, and the estimate corrects for that. A judgement
    counts for every job with the same text and spec.
    """


@review_command.command("judge", epilog="Example: docmill review judge 7")
@JOB
@STEP
@SIZE
@SEED
@BY
@JSON
def judge_command(job: int, step: str | None, size: int, seed: int | None, by: str | None, as_json: bool) -> int:
    """Judge a sample of JOB's outputs here.

    The command shows an output beside its input and waits for a key: g good, b bad, s skip, n note, u undo, q quit.
    Without a terminal, it reads a line for each output: the letter, then an optional note. Then it prints the
    estimated share of good outputs with its 95 % interval: of all outputs, and for each flag. Each judgement is
    stored at once, and the same command continues the review.
    """
    LIBRARY.require("`docmill review`")
    from docmill.features.reviewing.terminal import judge

    with open_store(settings_from()) as database:
        review = _open(database, job, step, seed)
        judge(review, size, by or _user())
        _print(review, as_json=as_json)
    return OK


@review_command.command("summary", epilog="Example: docmill review summary 7 --json")
@JOB
@STEP
@SEED
@JSON
def summary_command(job: int, step: str | None, seed: int | None, as_json: bool) -> int:
    """Print the estimates for JOB, and judge nothing."""
    LIBRARY.require("`docmill review`")
    with open_store(settings_from()) as database:
        _print(_open(database, job, step, seed), as_json=as_json)
    return OK


@review_command.command("export", epilog="Example: docmill review export 7 sample.csv")
@JOB
@click.argument("file", type=FILE, callback=_check_suffix)
@STEP
@SIZE
@SEED
def export_command(job: int, file: Path, step: str | None, size: int, seed: int | None) -> int:
    """Write the outputs of JOB's sample that nobody has judged to FILE.

    A .csv file has an empty column for the verdict; a .json file has tasks for Label Studio.
    """
    check_out(file, "csv" if file.suffix.lower() == ".csv" else "jsonl", name="FILE")
    LIBRARY.require("`docmill review`")
    with open_store(settings_from()) as database:
        _export(_open(database, job, step, seed), file, size)
    return OK


@review_command.command("import", epilog="Example: docmill review import 7 sample.csv")
@JOB
@click.argument("file", type=FILE, callback=_check_suffix)
@STEP
@SEED
@BY
@JSON
def import_command(job: int, file: Path, step: str | None, seed: int | None, by: str | None, as_json: bool) -> int:
    """Store the verdicts in a judged FILE.

    FILE is .csv, or .json that Label Studio exported as JSON or JSON-MIN.
    """
    LIBRARY.require("`docmill review`")
    with open_store(settings_from()) as database:
        review = _open(database, job, step, seed)
        n = review.take(read(file), by or _user())
        say(f"Stored {n:,} judgement{'s' * (n != 1)} from {file}.")
        _print(review, as_json=as_json)
    return OK


@review_command.command("fit", epilog="Example: docmill review fit 7")
@JOB
@STEP
@JSON
def fit_command(job: int, step: str | None, as_json: bool) -> int:
    """Fit the risk that an output is bad to all judgements.

    The command needs 200 judgements of the step's spec. It fits a logistic regression over flags, confidence and
    lengths. `docmill results JOB --risk` writes the risk, and `--risk-above 0.2` selects by it.
    """
    LIBRARY.require("`docmill review`")
    with open_store(settings_from()) as database:
        _fit(database, job, step, as_json=as_json)
    return OK


def _open(database: Database, job: int, step: str | None, seed: int | None) -> Review:
    """Return the review of a job; an unfinished one is said to be so."""
    status = read_status(database, job)
    if not status.ended:
        say(f"Job {job} is not finished: the sample is drawn from its outputs so far.")
    return Review.of(database, job, step, seed)


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
    written = counted(n, "output")
    say(f"Wrote {written} to {file}. Judge them, then: docmill review import {review.reviewed.job} {file}")


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
            f"`docmill review judge {review.reviewed.job}` shows these outputs."
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
