"""A review on a terminal: an output beside its input, the question, and the table of shares."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import NamedTuple

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from docmill.features.reviewing.estimate import ReviewSummary, Share
from docmill.features.reviewing.judgements import Judged, Verdict
from docmill.features.reviewing.population import OutputToReview
from docmill.features.reviewing.session import Review
from docmill.storage.steps.fitted_risks import Risk
from docmill.storage.steps.risk import FLAG, RiskFeature
from docmill.worker import consoles
from docmill.worker.cli.printing import say, say_rich
from docmill.worker.consoles import table
from docmill.worker.errors import WorkerError
from docmill.worker.formatting import printable
from docmill.worker.terminal import warn

WIDE = 100  # columns; a wider terminal shows input and output side by side
BACK, QUIT = "u", "q"  # keys that judge nothing: show the previous output again, or end the review
KEYS = {"g": Verdict.GOOD, "b": Verdict.BAD, "s": Verdict.SKIPPED}
QUESTION = "g good, b bad, s skip, n note, u undo, q quit: "


class NotedVerdict(NamedTuple):
    """A verdict with an optional note."""

    verdict: Verdict
    note: str | None


def judge(review: Review, size: int, judged_by: str) -> None:
    """Show the outputs of a sample that nobody has judged, and store each verdict, until the reviewer quits."""
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
        say_rich(shown(met[at], f"{at + 1:,} of {len(waiting):,}", consoles.talk.width))
        answer = ask()
        if answer is QUIT:
            break
        if isinstance(answer, NotedVerdict):
            review.judge(Judged(met[at].content_id, answer.verdict, judged_by, review.seed, answer.note))
            at += 1
        else:
            at = max(0, at - 1)


def _nothing_to_judge(review: Review, size: int) -> str:
    outputs = len(review.population)
    if not outputs:
        return f"Job {review.reviewed.job} has no outputs to judge."
    if size >= outputs:
        return f"All {outputs:,} outputs are judged."
    return f"The sample of {size:,} is judged; give a larger --size to judge more."


def shown(item: OutputToReview, place: str, width: int) -> Group:
    """Return an output beside its input, or below it where the terminal is narrow."""
    title = Text(printable(f"{place}: document {item.document}", keep=""), style="bold")
    texts = [Text(printable(text)) for text in (item.input, item.output)]
    if width < WIDE:
        parts = [
            part for name, text in zip(("Input", "Output"), texts, strict=True) for part in (_heading(name), text)
        ]
        return Group(Text(), title, *parts)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline", expand=True)
    for name in ("Input", "Output"):
        made.add_column(name, ratio=1, overflow="fold")
    made.add_row(*texts)
    return Group(Text(), title, made)


def _heading(name: str) -> Text:
    return Text(name, style="underline")


def _ask_for_keys() -> NotedVerdict | str:
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
            return NotedVerdict(KEYS[key], note)


def _read_line(numbers: Iterator[int]) -> NotedVerdict | str:
    """Read a line with a letter and an optional note. Return the verdict, BACK, or QUIT at the end.

    A line without a verdict raises WorkerError: if it were passed over, those after it would judge wrong outputs.
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
        return NotedVerdict(KEYS[letter[0]], note.strip() or None)
    raise WorkerError(
        f"line {number}: {letter!r} is no verdict; write g, b, s, u or q. The lines before it are stored: "
        f"correct this line, and give the same command the lines from {number}"
    )


def shares_table(summary: ReviewSummary) -> Group:
    """Return the shares of good outputs with their intervals, and a line about the judgements."""
    numbers = ("outputs", "judged", "good", "share", "95 % interval")
    made = table("group", *numbers, names={"group"}, numbers=numbers)
    for share in summary.shares:
        made.add_row(share.group, f"{share.outputs:,}", f"{share.judged:,}", f"{share.good:,}", *_estimate(share))
    skipped = f", {summary.skipped:,} skipped" if summary.skipped else ""
    return Group(made, Text(f"{summary.judged:,} of {summary.outputs:,} outputs are judged{skipped}."))


def _estimate(share: Share) -> Iterator[str]:
    if share.share is None or share.low is None or share.high is None:
        yield from ("", "")
        return
    yield f"{100 * share.share:.1f} %"
    yield f"{100 * share.low:.1f} to {100 * share.high:.1f} %"


def risk_table(risk: Risk) -> Group:
    """Return the features of a risk with their effects, and the measures of its quality."""
    effects = table("feature", "odds of bad", "change", names={"feature"}, numbers=("odds of bad",))
    for feature in sorted(risk.model.features, key=lambda effect: -abs(effect.coefficient)):
        effects.add_row(feature.name, *_effect(feature))
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


def _effect(feature: RiskFeature) -> tuple[str, str]:
    """Return the factor by which a feature changes the odds, and the change of the feature."""
    if feature.name.startswith(FLAG):
        return f"× {math.exp(feature.coefficient / feature.scale):.2f}", "with the flag"
    return f"× {math.exp(feature.coefficient):.2f}", f"{feature.scale:.3g} more"
