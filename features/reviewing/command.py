"""`docmill review`: judge a sample of a job's outputs, and estimate the share of good ones."""

from __future__ import annotations

import getpass
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeAlias

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from docmill.features.reviewing import LIBRARY
from docmill.features.reviewing.estimate import ReviewSummary, Share
from docmill.features.reviewing.judgements import Judged, Verdict, read_judged_results
from docmill.features.reviewing.population import OutputToReview, read_step
from docmill.features.reviewing.risk import fit
from docmill.features.reviewing.session import COLUMNS, WRITERS, Review, list_rows, read_file
from docmill.storage.core.database import Database
from docmill.storage.results.status import read_status
from docmill.storage.steps import fitted_risks
from docmill.storage.steps.risk import FLAG, FittedRisk, RiskFeature
from docmill.storage.writers import Target
from docmill.worker import consoles
from docmill.worker.cli.options import JOB, JSON, FilledPath, whole_number
from docmill.worker.cli.printing import print_json, print_rich, say, say_rich
from docmill.worker.consoles import table
from docmill.worker.errors import WorkerError
from docmill.worker.formatting import counted, printable
from docmill.worker.jobs.outputs import require_target
from docmill.worker.settings import load_settings
from docmill.worker.stores import open_store
from docmill.worker.terminal import warn

FILE = FilledPath(dir_okay=False, path_type=Path)


def _check_suffix(_: click.Context, __: click.Parameter, file: Path) -> Path:
    if file.suffix.lower() not in WRITERS:
        raise click.BadParameter(f"{file} ends in neither .csv, for a spreadsheet, nor .json, for Label Studio")
    return file


STEP = click.option("--step", help="Step to review, of a job with several steps.  [default: the last]")
SIZE = click.option(
    "--size", type=whole_number(1, 1_000_000), default=100, show_default=True, help="Size of the sample."
)
SEED = click.option(
    "--seed",
    type=whole_number(0, 2**31 - 1),
    help="Draw another sample.  [default: that of earlier judgements, else 0]",
)
BY = click.option("--by", help="Name of the person who judges.  [default: the user's name]")


@click.group("review")
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
def judge_command(job: int, step: str | None, size: int, seed: int | None, by: str | None, as_json: bool) -> None:
    """Judge a sample of JOB's outputs here.

    The command shows an output beside its input and waits for a key: g good, b bad, s skip, n note, u undo, q quit.
    Without a terminal, it reads a line for each output: the letter, then an optional note. Then it prints the
    estimated share of good outputs with its 95 % interval: of all outputs, and for each flag. Each judgement is
    stored at once, and the same command continues the review.
    """
    with open_store(load_settings()) as database:
        review = _open(database, job, step, seed)
        judge(review, size, by or _user())
        _print(review, as_json=as_json)


@review_command.command("summary", epilog="Example: docmill review summary 7 --json")
@JOB
@STEP
@SEED
@JSON
def summary_command(job: int, step: str | None, seed: int | None, as_json: bool) -> None:
    """Print the estimates for JOB without judging anything."""
    with open_store(load_settings()) as database:
        _print(_open(database, job, step, seed), as_json=as_json)


@review_command.command("export", epilog="Example: docmill review export 7 sample.csv")
@JOB
@click.argument("file", type=FILE, callback=_check_suffix)
@STEP
@SIZE
@SEED
def export_command(job: int, file: Path, step: str | None, size: int, seed: int | None) -> None:
    """Write the unjudged outputs of JOB's sample to FILE.

    A .csv file has an empty column for the verdict; a .json file has tasks for Label Studio.
    """
    require_target(file, "csv" if file.suffix.lower() == ".csv" else "jsonl", name="FILE")
    with open_store(load_settings()) as database:
        _export(_open(database, job, step, seed), file, size)


@review_command.command("import", epilog="Example: docmill review import 7 sample.csv")
@JOB
@click.argument("file", type=FILE, callback=_check_suffix)
@STEP
@SEED
@BY
@JSON
def import_command(job: int, file: Path, step: str | None, seed: int | None, by: str | None, as_json: bool) -> None:
    """Store the verdicts in a judged FILE.

    FILE is .csv, or .json that Label Studio exported as JSON or JSON-MIN.
    """
    with open_store(load_settings()) as database:
        review = _open(database, job, step, seed)
        n = review.take(read_file(file), by or _user())
        say(f"Stored {counted(n, 'judgement')} from {file}.")
        _print(review, as_json=as_json)


@review_command.command("fit", epilog="Example: docmill review fit 7")
@JOB
@STEP
@JSON
def fit_command(job: int, step: str | None, as_json: bool) -> None:
    """Fit the risk that an output is bad to all judgements.

    The command needs 200 judgements of the step's spec. It fits a logistic regression over flags, confidence and
    lengths. `docmill results JOB --risk` writes the risk, and `--risk-above 0.2` selects by it.
    """
    LIBRARY.require("`docmill review`")
    with open_store(load_settings()) as database:
        read_step(database, job, step)  # else it cannot be judged
        spec_id = fitted_risks.spec_with_risk(database, job, step)
        risk = fitted_risks.store(database, spec_id, fit(read_judged_results(database, spec_id)))
    if as_json:
        print_json({"job": job, **asdict(risk)})
        return
    print_rich(risk_table(risk))
    say(f"`docmill results {job} --risk` writes the risk of each output.")


def _open(database: Database, job: int, step: str | None, seed: int | None) -> Review:
    """Return the review of a job. Say so if the job is not finished."""
    LIBRARY.require("`docmill review`")
    status = read_status(database, job)
    if not status.ended:
        say(f"Job {job} is not finished: the sample has only its outputs so far.")
    return Review.of(database, job, step, seed)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def _export(review: Review, file: Path, size: int) -> None:
    rows = list_rows(review.items(review.waiting(size)), review.seed)
    written = counted(Target(file, WRITERS[file.suffix.lower()]).write(rows, COLUMNS), "output")
    say(f"Wrote {written} to {file}. Judge them, then: docmill review import {review.reviewed.job} {file}")


def _print(review: Review, *, as_json: bool) -> None:
    summary = review.summary()
    if as_json:
        print_json(
            {"job": review.reviewed.job, "step": review.reviewed.step.name, "seed": review.seed, **asdict(summary)}
        )
        return
    print_rich(shares_table(summary))
    if (more := summary.judged - summary.counted) > 0:
        say(
            f"{more:,} judgements do not count yet: the sample has outputs before them that nobody has seen. "
            f"`docmill review judge {review.reviewed.job}` shows these outputs."
        )


WIDE = 100  # columns; a wider terminal shows input and output side by side
BACK, QUIT = "u", "q"  # keys that judge nothing: show the previous output again, or end the review
Answer: TypeAlias = tuple[Verdict, str | None] | str  # a verdict with an optional note, BACK or QUIT
KEYS = {"g": Verdict.GOOD, "b": Verdict.BAD, "s": Verdict.SKIPPED}
QUESTION = "g good, b bad, s skip, n note, u undo, q quit: "


def judge(review: Review, size: int, judged_by: str) -> None:
    """Show the unjudged outputs of a sample, and store each verdict, until the reviewer quits."""
    waiting = review.waiting(size)
    if not waiting:
        say(_nothing_to_judge(review, size))
        return
    say(f"{len(waiting):,} outputs to judge.")
    ask = _ask_for_keys if sys.stdin.isatty() else partial(_read_line, count(1))
    items = review.items(waiting)
    met: list[OutputToReview] = []
    at = 0
    while at < len(met) or (item := next(items, None)) is not None:
        if at == len(met):
            assert item is not None
            met.append(item)
        say_rich(render_output(met[at], f"{at + 1:,} of {len(waiting):,}", consoles.talk.width))
        answer = ask()
        if answer is QUIT:
            break
        if isinstance(answer, str):
            at = max(0, at - 1)
            continue
        verdict, note = answer
        review.judge(Judged(met[at].content_id, verdict, judged_by, review.seed, note), met[at].spec)
        at += 1


def _nothing_to_judge(review: Review, size: int) -> str:
    outputs = len(review.population)
    if not outputs:
        return f"Job {review.reviewed.job} has no outputs to judge."
    if size >= outputs:
        return f"All {outputs:,} outputs are judged."
    return f"The sample of {size:,} is judged; give a larger --size to judge more."


def render_output(item: OutputToReview, place: str, width: int) -> Group:
    """Return an output beside its input, or below it if the terminal is narrow."""
    title = Text(printable(f"{place}: document {item.document}", keep=""), style="bold")
    texts = [Text(printable(text)) for text in (item.input, item.output)]
    if width < WIDE:
        parts = [
            part
            for name, text in zip(("Input", "Output"), texts, strict=True)
            for part in (Text(name, style="underline"), text)
        ]
        return Group(Text(), title, *parts)
    side_by_side = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline", expand=True)
    for name in ("Input", "Output"):
        side_by_side.add_column(name, ratio=1, overflow="fold")
    side_by_side.add_row(*texts)
    return Group(Text(), title, side_by_side)


def _ask_for_keys() -> Answer:
    """Wait for a key, and return the verdict, BACK or QUIT."""
    note = None
    while True:
        warn(QUESTION, nl=False)
        key = click.getchar().lower()
        warn(key if key.isprintable() else "")
        if key in {QUIT, "\x04", "\x1b"}:
            return QUIT
        if key == BACK:
            return BACK
        if key == "n":
            note = click.prompt("note", default="", show_default=False, err=True).strip() or None
        elif key in KEYS:
            return KEYS[key], note


def _read_line(numbers: Iterator[int]) -> Answer:
    """Read a line with a letter and an optional note. Return the verdict, BACK, or QUIT at the end.

    Raises WorkerError for a line without a verdict: skipping it would give later verdicts to the wrong outputs.
    """
    line = sys.stdin.readline()
    if not line:
        return QUIT
    number = next(numbers)
    letter, _, note = line.strip().partition(" ")
    letter = letter.lower()
    if letter in {QUIT, "quit"}:
        return QUIT
    if letter in {BACK, "undo"}:
        return BACK
    if letter in {*KEYS, *Verdict, "skip"}:
        return KEYS[letter[0]], note.strip() or None
    raise WorkerError(
        f"line {number}: {letter!r} is not a verdict; write g, b, s, u or q. The lines before it are stored: "
        f"correct this line, and give the same command the lines from {number}"
    )


def shares_table(summary: ReviewSummary) -> Group:
    """Return the shares of good outputs with their intervals, and a line about the judgements."""
    numbers = ("outputs", "judged", "good", "share", "95 % interval")
    shares = table("group", *numbers, names={"group"}, numbers=numbers)
    for share in summary.shares:
        shares.add_row(share.group, f"{share.outputs:,}", f"{share.judged:,}", f"{share.good:,}", *_bounds(share))
    skipped = f", {summary.skipped:,} skipped" if summary.skipped else ""
    return Group(shares, Text(f"{summary.judged:,} of {summary.outputs:,} outputs are judged{skipped}."))


def _bounds(share: Share) -> Iterator[str]:
    if share.share is None or share.low is None or share.high is None:
        yield from ("", "")
        return
    yield f"{100 * share.share:.1f} %"
    yield f"{100 * share.low:.1f} to {100 * share.high:.1f} %"


def risk_table(risk: FittedRisk) -> Group:
    """Return the features of a risk with their effects, and the measures of its quality."""
    effects = table("feature", "odds of bad", "change", names={"feature"}, numbers=("odds of bad",))
    for feature in sorted(risk.model.features, key=lambda effect: -abs(effect.coefficient)):
        effects.add_row(feature.name, *_describe_effect(feature))
    thirds = table("risk", "judged", "mean risk", "bad", numbers=("judged", "mean risk", "bad"))
    quality = risk.quality
    for name, third in zip(("low", "middle", "high"), quality["thirds"], strict=True):
        thirds.add_row(name, f"{third['judged']:,}", f"{100 * third['risk']:.1f} %", f"{100 * third['bad']:.1f} %")
    measured = (
        f"Brier score {quality['brier']:.3f} ({quality['brier_of_share']:.3f} with one risk for all outputs), area "
        f"under the ROC curve {quality['auc']:.3f}, by cross-validation."
    )
    title = f"Version {risk.version}, fitted to {risk.n_good:,} good and {risk.n_bad:,} bad outputs"
    return Group(Text(title, style="bold"), effects, Text(), thirds, Text(measured))


def _describe_effect(feature: RiskFeature) -> tuple[str, str]:
    """Return the factor by which a feature changes the odds, and the change of the feature."""
    if feature.name.startswith(FLAG):
        return f"× {math.exp(feature.coefficient / feature.scale):.2f}", "with the flag"
    return f"× {math.exp(feature.coefficient):.2f}", f"{feature.scale:.3g} more"
