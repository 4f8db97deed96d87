"""A comparison of two jobs for the terminal and for machines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import SequenceMatcher
from typing import Any

from rich.table import Table
from rich.text import Text

from docmill.features.comparing.agreement import share
from docmill.features.comparing.comparison import Comparison, Neighbourhood, Pair, Result, keys, texts
from docmill.storage.core.database import Database
from docmill.storage.steps.conditions import order_flags
from docmill.worker.cli.printing import answer, print_rich
from docmill.worker.consoles import Name, table
from docmill.worker.formatting import printable, shorten

SHOWN_CHARACTERS = 600  # of an output
_WORDS = re.compile(r"\S+")
MEANING = {
    "identical": "identical results",
    "word_overlap": "overlap of words (F1), mean",
    "equal_best_label": "equal best labels",
    "cohens_kappa": "Cohen's kappa",
    "span_f1": "F1 of spans",
    "equal_properties": "equal properties",
    "cosine": "cosine of weights, mean",
    "recall_at_10": "A's 10 nearest among B's",
}


def as_json(found: Comparison, database: Database) -> dict[str, Any]:
    """Return a comparison for machines, with its samples."""
    sides = {
        name: {
            "job": side.job_id,
            "step": side.step.name,
            "spec": asdict(side.spec),
            "flags": order_flags(sure.flags),
            "confidence": sure.mean_confidence,
        }
        for name, side, sure in (("a", found.a, found.sure_a), ("b", found.b, found.sure_b))
    }
    counts = {name: getattr(found, name) for name in ("documents", "both", "only_a", "only_b", "differing")}
    samples = [
        {"id": pair.key, "text": text, "a": _plain(pair.a), "b": _plain(pair.b)}
        for pair, text in _with_texts(found.samples, database)
    ]
    return {
        "task": found.a.spec.kind,
        **sides,
        **counts,
        "agreement": found.measures,
        "samples": samples if not found.neighbourhoods else _neighbours_as_json(found, database),
    }


def _plain(result: Result | None) -> dict[str, Any]:
    return {name: value for name, value in (result or {}).items() if name != "vector"}


def _neighbours_as_json(found: Comparison, database: Database) -> list[dict[str, Any]]:
    names = _keys(found.neighbourhoods, database)
    return [
        {
            "id": names[one.document_id],
            "recall": one.recall,
            "a": [names[other] for other in one.a],
            "b": [names[other] for other in one.b],
        }
        for one in found.neighbourhoods
    ]


def print_comparison(found: Comparison, database: Database) -> None:
    """Print a comparison: the counts, the agreement, flags and confidence, and the samples side by side."""

    for name, side in (("A", found.a), ("B", found.b)):
        answer(f"{name}  job {side.job_id}: {side.spec}")
    answer(
        f"{found.both:,} of {found.documents:,} documents have both results; only A has {found.only_a:,}, only B "
        f"{found.only_b:,}"
    )
    if not found.both:
        return
    agreement = table("agreement", "", numbers={""})
    for name, value in found.measures.items():
        agreement.add_row(Name(MEANING.get(name, name)), "none" if value is None else f"{value:.3f}")
    print_rich(agreement)
    if (both := _sureness(found)) is not None:
        print_rich(both)
    if found.neighbourhoods:
        _print_neighbours([one for one in found.neighbourhoods if one.recall < 1], database)
        return
    shown = len(found.samples)
    answer(f"\n{found.differing:,} results differ" + (f"; {shown:,} of them:" if shown else "."))
    for pair, text in _with_texts(found.samples, database):
        beginning = printable(f"{pair.key}: {' '.join(text.split())}", keep="")
        print_rich(Text(beginning, style="bold", overflow="ellipsis", no_wrap=True))
        print_rich(_side_by_side(found, pair))


def _sureness(found: Comparison) -> Table | None:
    """Return a table of flags and confidence; None where neither job has any."""
    a, b = found.sure_a, found.sure_b
    made = table("share of results with a flag", "A", "B", names={"share of results with a flag"}, numbers={"A", "B"})
    for flag in order_flags(a.flags + b.flags):
        made.add_row(Name(flag), *(f"{share(one.flags[flag], one.n) or 0.0:.1%}" for one in (a, b)))
    means = [one.mean_confidence for one in (a, b)]
    if any(mean is not None for mean in means):
        made.add_row("mean confidence", *("none" if mean is None else f"{mean:.3f}" for mean in means))
    return made if made.row_count else None


def _side_by_side(found: Comparison, pair: Pair) -> Table:
    made = Table(box=None, pad_edge=False, show_header=False, expand=True, padding=(0, 1, 0, 0))
    made.add_column(ratio=1)
    made.add_column(ratio=1)
    assert pair.a is not None
    assert pair.b is not None
    made.add_row(*marked(found.a.output.shown(pair.a), found.b.output.shown(pair.b)))
    made.add_row()
    return made


def marked(a: str, b: str) -> tuple[Text, Text]:
    """Return two texts in which words are marked that the other lacks: [-in A only-] and {+in B only+}."""
    one, other = (_WORDS.findall(printable(shorten(text, SHOWN_CHARACTERS))) for text in (a, b))
    left, right = Text(), Text()
    for tag, start, end, start_b, end_b in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if tag == "equal":
            for text, words in ((left, one[start:end]), (right, other[start_b:end_b])):
                text.append(" ".join(words) + " ")
            continue
        if start < end:
            left.append(f"[-{' '.join(one[start:end])}-]", "red").append(" ")
        if start_b < end_b:
            right.append(f"{{+{' '.join(other[start_b:end_b])}+}}", "green").append(" ")
    left.rstrip()
    right.rstrip()
    return left, right


def _print_neighbours(found: Sequence[Neighbourhood], database: Database) -> None:

    if not found:
        return
    names = _keys(found, database)
    answer("\nThe documents whose nearest documents differ most:")
    made = table(
        "document", "recall", "nearest by A", "nearest by B", names={"document", "nearest by A", "nearest by B"}
    )
    for one in found:
        sides = ((one.a, {*one.b}, "[-{}-]"), (one.b, {*one.a}, "{{+{}+}}"))
        lists = [
            Text(
                ", ".join(printable(names[n]) if n in beside else mark.format(printable(names[n])) for n in near[:3])
            )
            for near, beside, mark in sides
        ]
        made.add_row(Name(names[one.document_id]), f"{one.recall:.2f}", *lists)
    print_rich(made)


def _keys(found: Sequence[Neighbourhood], database: Database) -> Mapping[int, str]:
    return keys(database, sorted({n for one in found for n in (one.document_id, *one.a, *one.b)}))


def _with_texts(samples: Sequence[Pair], database: Database) -> list[tuple[Pair, str]]:
    found = texts(database, {pair.content_id for pair in samples})
    return [(pair, found[pair.content_id]) for pair in samples]
