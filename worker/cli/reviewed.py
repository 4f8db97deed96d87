"""A review on a terminal: an output beside its input, the question, and the table of shares."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from storage.core.risk import FLAG
from storage.reviews.judgements import Judged, Verdict
from worker.cli.formatting import printable
from worker.cli.printing import say, warn
from worker.cli.show import talk
from worker.cli.tables import table

if TYPE_CHECKING:
    from storage.core.risk import Feature
    from storage.reviews.items import Item
    from storage.reviews.risks import Risk
    from worker.reviewing.estimate import Share, Summary
    from worker.reviewing.session import Review

WIDE = 100  # columns from which on input and output stand side by side
KEYS = {"g": Verdict.GOOD, "b": Verdict.BAD, "s": Verdict.SKIPPED}
QUESTION = "g good, b bad, s skip, n note, q quit: "


def judge(review: Review, size: int, judged_by: str) -> None:
    """Show the outputs of a sample that nobody judged, and store each verdict, until the reviewer quits."""
    waiting = review.waiting(size)
    if not waiting:
        say(f"The sample of {size:,} is judged; --size draws a larger one.")
        return
    say(f"{len(waiting):,} outputs to judge.")
    ask = _ask_for_keys if sys.stdin.isatty() else _read_lines
    for number, item in enumerate(review.items(waiting), 1):
        talk.print(shown(item, f"{number:,} of {len(waiting):,}", talk.width))
        answer = ask()
        if answer is None:
            break
        verdict, note = answer
        review.judge(Judged(item.content_id, verdict, judged_by, review.seed, note))


def shown(item: Item, place: str, width: int) -> Group:
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


def _ask_for_keys() -> tuple[Verdict, str | None] | None:
    """Wait for a key; None to quit."""
    note = None
    while True:
        click.echo(QUESTION, nl=False, err=True)
        key = click.getchar().lower()
        click.echo(key if key.isprintable() else "", err=True)
        if key in {"q", "\x04", "\x1b"}:
            return None
        if key == "n":
            note = click.prompt("note", default="", show_default=False, err=True).strip() or None
        elif key in KEYS:
            return KEYS[key], note


def _read_lines() -> tuple[Verdict, str | None] | None:
    """Read a line with the letter, and perhaps a note behind it; None at the end of the input."""
    for line in iter(sys.stdin.readline, ""):
        letter, _, note = line.strip().partition(" ")
        if letter.lower() in {"q", "quit"}:
            return None
        if letter[:1].lower() in KEYS and letter.lower() in {*KEYS, *Verdict, "skip"}:
            return KEYS[letter[0].lower()], note.strip() or None
        warn(f"{letter!r} is no verdict; write g, b, s or q")
    return None


def shares_table(summary: Summary) -> Group:
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
    """Return the features of a risk with their effects, and what was measured of it."""
    effects = table("feature", "odds of bad", "for", names={"feature"}, numbers=("odds of bad",))
    for feature in sorted(risk.model.features, key=lambda one: -abs(one.coefficient)):
        effects.add_row(feature.name, *_effect(feature))
    thirds = table("risk", "judged", "mean risk", "bad", numbers=("judged", "mean risk", "bad"))
    quality = risk.quality
    for name, third in zip(("low", "middle", "high"), quality["thirds"], strict=True):
        thirds.add_row(name, f"{third['judged']:,}", f"{100 * third['risk']:.1f} %", f"{100 * third['bad']:.1f} %")
    measured = (
        f"Brier score {quality['brier']:.3f} ({quality['brier_of_share']:.3f} with the same risk for all), area "
        f"under the ROC curve {quality['auc']:.3f}, on outputs that it was not fitted to."
    )
    title = f"Version {risk.version}, fitted to {risk.n_good:,} good and {risk.n_bad:,} bad outputs"
    return Group(Text(title, style="bold"), effects, Text(), thirds, Text(measured))


def _effect(feature: Feature) -> tuple[str, str]:
    """Return the factor by which a feature changes the odds, and the change of the feature."""
    if feature.name.startswith(FLAG):
        return f"× {math.exp(feature.coefficient / feature.scale):.2f}", "the flag"
    return f"× {math.exp(feature.coefficient):.2f}", f"{feature.scale:.3g} more"
