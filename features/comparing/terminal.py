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
from docmill.features.comparing.comparison import ComparedDocument, JobComparison, Neighbourhood, Result, keys, texts
from docmill.storage.core.database import Database
from docmill.storage.steps.conditions import order_flags
from docmill.worker.cli.printing import answer, print_rich
from docmill.worker.consoles import NameCell, table
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


def as_json(comparison: JobComparison, database: Database) -> dict[str, Any]:
    """Return a comparison for machines, with its samples."""
    sides = {
        name: {
            "job": side.job_id,
            "step": side.step.name,
            "spec": asdict(side.spec),
            "flags": order_flags(sure.flags),
            "confidence": sure.mean_confidence,
        }
        for name, side, sure in (("a", comparison.a, comparison.sure_a), ("b", comparison.b, comparison.sure_b))
    }
    counts = {name: getattr(comparison, name) for name in ("documents", "both", "only_a", "only_b", "differing")}
    samples = [
        {"id": pair.key, "text": text, "a": _plain(pair.a), "b": _plain(pair.b)}
        for pair, text in _with_texts(comparison.samples, database)
    ]
    return {
        "task": comparison.a.spec.kind,
        **sides,
        **counts,
        "agreement": comparison.measures,
        "samples": samples if not comparison.neighbourhoods else _neighbours_as_json(comparison, database),
    }


def _plain(result: Result | None) -> dict[str, Any]:
    return {name: value for name, value in (result or {}).items() if name != "vector"}


def _neighbours_as_json(comparison: JobComparison, database: Database) -> list[dict[str, Any]]:
    names = _keys(comparison.neighbourhoods, database)
    return [
        {
            "id": names[near.document_id],
            "recall": near.recall,
            "a": [names[other] for other in near.a],
            "b": [names[other] for other in near.b],
        }
        for near in comparison.neighbourhoods
    ]


def print_comparison(comparison: JobComparison, database: Database) -> None:
    """Print a comparison: the counts, the agreement, flags and confidence, and the samples side by side."""

    for name, side in (("A", comparison.a), ("B", comparison.b)):
        answer(f"{name}  job {side.job_id}: {side.spec}")
    answer(
        f"{comparison.both:,} of {comparison.documents:,} documents have both results; only A has "
        f"{comparison.only_a:,}, only B {comparison.only_b:,}"
    )
    if not comparison.both:
        return
    agreement = table("agreement", "", numbers={""})
    for name, value in comparison.measures.items():
        agreement.add_row(NameCell(MEANING.get(name, name)), "none" if value is None else f"{value:.3f}")
    print_rich(agreement)
    if (both := _sureness(comparison)) is not None:
        print_rich(both)
    if comparison.neighbourhoods:
        _print_neighbours([near for near in comparison.neighbourhoods if near.recall < 1], database)
        return
    shown = len(comparison.samples)
    answer(f"\n{comparison.differing:,} results differ" + (f"; {shown:,} of them:" if shown else "."))
    for pair, text in _with_texts(comparison.samples, database):
        beginning = printable(f"{pair.key}: {' '.join(text.split())}", keep="")
        print_rich(Text(beginning, style="bold", overflow="ellipsis", no_wrap=True))
        print_rich(_side_by_side(comparison, pair))


def _sureness(comparison: JobComparison) -> Table | None:
    """Return a table of flags and confidence; None where neither job has any."""
    a, b = comparison.sure_a, comparison.sure_b
    made = table("share of results with a flag", "A", "B", names={"share of results with a flag"}, numbers={"A", "B"})
    for flag in order_flags(a.flags + b.flags):
        made.add_row(NameCell(flag), *(f"{share(sure.flags[flag], sure.n) or 0.0:.1%}" for sure in (a, b)))
    means = [sure.mean_confidence for sure in (a, b)]
    if any(mean is not None for mean in means):
        made.add_row("mean confidence", *("none" if mean is None else f"{mean:.3f}" for mean in means))
    return made if made.row_count else None


def _side_by_side(comparison: JobComparison, pair: ComparedDocument) -> Table:
    made = Table(box=None, pad_edge=False, show_header=False, expand=True, padding=(0, 1, 0, 0))
    made.add_column(ratio=1)
    made.add_column(ratio=1)
    assert pair.a is not None
    assert pair.b is not None
    a, b = comparison.a, comparison.b
    made.add_row(*marked(a.output.shown(pair.a, a.spec.params), b.output.shown(pair.b, b.spec.params)))
    made.add_row()
    return made


def marked(a: str, b: str) -> tuple[Text, Text]:
    """Return two texts in which words are marked that the other lacks: [-in A only-] and {+in B only+}."""
    words_a, words_b = (_WORDS.findall(printable(shorten(text, SHOWN_CHARACTERS))) for text in (a, b))
    left, right = Text(), Text()
    for tag, start, end, start_b, end_b in SequenceMatcher(None, words_a, words_b, autojunk=False).get_opcodes():
        if tag == "equal":
            for text, words in ((left, words_a[start:end]), (right, words_b[start_b:end_b])):
                text.append(" ".join(words) + " ")
            continue
        if start < end:
            left.append(f"[-{' '.join(words_a[start:end])}-]", "red").append(" ")
        if start_b < end_b:
            right.append(f"{{+{' '.join(words_b[start_b:end_b])}+}}", "green").append(" ")
    left.rstrip()
    right.rstrip()
    return left, right


def _print_neighbours(neighbourhoods: Sequence[Neighbourhood], database: Database) -> None:

    if not neighbourhoods:
        return
    names = _keys(neighbourhoods, database)
    answer("\nThe documents whose nearest documents differ most:")
    made = table(
        "document", "recall", "nearest by A", "nearest by B", names={"document", "nearest by A", "nearest by B"}
    )
    for neighbourhood in neighbourhoods:
        sides = ((neighbourhood.a, {*neighbourhood.b}, "[-{}-]"), (neighbourhood.b, {*neighbourhood.a}, "{{+{}+}}"))
        lists = [
            Text(
                ", ".join(printable(names[n]) if n in beside else mark.format(printable(names[n])) for n in near[:3])
            )
            for near, beside, mark in sides
        ]
        made.add_row(NameCell(names[neighbourhood.document_id]), f"{neighbourhood.recall:.2f}", *lists)
    print_rich(made)


def _keys(neighbourhoods: Sequence[Neighbourhood], database: Database) -> Mapping[int, str]:
    return keys(database, sorted({n for near in neighbourhoods for n in (near.document_id, *near.a, *near.b)}))


def _with_texts(samples: Sequence[ComparedDocument], database: Database) -> list[tuple[ComparedDocument, str]]:
    by_id = texts(database, {pair.content_id for pair in samples})
    return [(pair, by_id[pair.content_id]) for pair in samples]
