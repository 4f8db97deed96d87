"""`docmill compare`: the results of two jobs side by side, and how far they agree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from difflib import SequenceMatcher
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from docmill.features.comparing.agreement import share
from docmill.features.comparing.comparison import (
    ComparedDocument,
    JobComparison,
    Neighborhood,
    compare,
    find_keys,
    read_side,
)
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import read_texts
from docmill.storage.steps.conditions import order_flags
from docmill.worker.cli.options import JOB_ID, JSON, whole_number
from docmill.worker.cli.printing import OK, answer, listen, print_json, print_rich
from docmill.worker.consoles import NameCell, table
from docmill.worker.formatting import documents, printable, shorten
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.settings import load_settings
from docmill.worker.stores import find_named_corpus, open_store
from docmill.worker.terminal import warn

MOST_SAMPLES = 1_000


@click.command("compare", epilog="Example: docmill compare tickets --job 3 --job 7 --samples 5")
@click.argument("corpus")
@click.option("--job", "jobs", type=JOB_ID, multiple=True, required=True, help="A job to compare; give it twice.")
@click.option("--step", help="Step to compare, of jobs with several steps.")
@click.option(
    "--samples", type=whole_number(0, MOST_SAMPLES), default=3, show_default=True, help="Number of documents shown."
)
@click.option("--seed", type=whole_number(0, 2**31 - 1), default=0, show_default=True, help="Seed of the sample.")
@JSON
def compare_command(
    corpus: str, jobs: tuple[int, ...], step: str | None, samples: int, seed: int, as_json: bool
) -> int:
    """Compare the results of two jobs over the documents of CORPUS.

    The first --job is A, the second B. The comparison covers the current documents with both results. Texts: the
    share of identical ones, and the overlap of their words. Labels: the share of equal best labels, and Cohen's
    kappa. Spans: F1. Records: the share of equal properties. Embeddings: for a sample of 200 documents, the overlap
    of the 10 nearest by A and by B. Flags and confidence follow for each job.

    Samples are documents whose results differ. Words only in A are shown as [-…-], words only in B as {+…+}.
    """
    if len(jobs) != 2:
        raise click.UsageError("give --job twice: docmill compare CORPUS --job A --job B")
    with open_store(load_settings()) as database:
        corpus_id, name = find_named_corpus(database, corpus)
        a, b = (read_side(database, corpus_id, job, step) for job in jobs)
        with listen().bar("compare") as progress:

            def advanced(n: int) -> None:
                progress.update(n, count=documents(n))

            comparison = compare(database, corpus_id, a, b, samples=samples, seed=seed, advanced=advanced)
        if as_json:
            print_json(comparison_as_json(comparison, database))
        else:
            print_comparison(comparison, database)
    if not comparison.both:
        warn(f"No current document of the corpus {name} has results of both jobs.")
        return BAD_INPUT
    return OK


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


def comparison_as_json(comparison: JobComparison, database: Database) -> dict[str, Any]:
    """Return a comparison for machines, with its samples."""
    sides = {
        name: {
            "job": side.job_id,
            "step": side.step.name,
            "spec": asdict(side.step.spec),
            "flags": order_flags(sure.flags),
            "confidence": sure.mean_confidence,
        }
        for name, side, sure in (("a", comparison.a, comparison.sure_a), ("b", comparison.b, comparison.sure_b))
    }
    counts = {name: getattr(comparison, name) for name in ("documents", "both", "only_a", "only_b", "differing")}
    samples = [
        {"id": pair.key, "text": text, "a": pair.a, "b": pair.b}
        for pair, text in _read_texts(comparison.samples, database)
    ]
    return {
        "task": comparison.a.step.spec.kind,
        **sides,
        **counts,
        "agreement": comparison.measures,
        "samples": samples or _neighbors_as_json(comparison, database),
    }


def _neighbors_as_json(comparison: JobComparison, database: Database) -> list[dict[str, Any]]:
    names = find_keys(database, comparison.neighborhoods)
    return [
        {
            "id": names[near.document_id],
            "recall": near.recall,
            "a": [names[other] for other in near.a],
            "b": [names[other] for other in near.b],
        }
        for near in comparison.neighborhoods
    ]


def print_comparison(comparison: JobComparison, database: Database) -> None:
    """Print a comparison: the counts, the agreement, flags and confidence, and the samples side by side."""

    for name, side in (("A", comparison.a), ("B", comparison.b)):
        answer(f"{name}  job {side.job_id}: {side.step.spec}")
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
    if (both := _make_sureness_table(comparison)) is not None:
        print_rich(both)
    if comparison.neighborhoods:
        _print_neighbors([near for near in comparison.neighborhoods if near.recall < 1], database)
        return
    shown = len(comparison.samples)
    answer(f"\n{comparison.differing:,} results differ" + (f"; {shown:,} of them:" if shown else "."))
    for pair, text in _read_texts(comparison.samples, database):
        beginning = printable(f"{pair.key}: {' '.join(text.split())}", keep="")
        print_rich(Text(beginning, style="bold", overflow="ellipsis", no_wrap=True))
        print_rich(_make_sample_table(comparison, pair))


def _make_sureness_table(comparison: JobComparison) -> Table | None:
    """Return a table of flags and confidence; None if neither job has any."""
    a, b = comparison.sure_a, comparison.sure_b
    sureness = table(
        "share of results with a flag", "A", "B", names={"share of results with a flag"}, numbers={"A", "B"}
    )
    for flag in order_flags(a.flags + b.flags):
        sureness.add_row(NameCell(flag), *(f"{share(sure.flags[flag], sure.n) or 0.0:.1%}" for sure in (a, b)))
    means = [sure.mean_confidence for sure in (a, b)]
    if any(mean is not None for mean in means):
        sureness.add_row("mean confidence", *("none" if mean is None else f"{mean:.3f}" for mean in means))
    return sureness if sureness.row_count else None


def _make_sample_table(comparison: JobComparison, pair: ComparedDocument) -> Table:
    sample = Table(box=None, pad_edge=False, show_header=False, expand=True, padding=(0, 1, 0, 0))
    sample.add_column(ratio=1)
    sample.add_column(ratio=1)
    assert pair.a is not None
    assert pair.b is not None
    a, b = comparison.a, comparison.b
    sample.add_row(*mark_differences(a.output.shown(pair.a, a.step.params), b.output.shown(pair.b, b.step.params)))
    sample.add_row()
    return sample


def mark_differences(a: str, b: str) -> tuple[Text, Text]:
    """Return two texts with marks on the words that the other text lacks: [-in A only-] and {+in B only+}."""
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


def _print_neighbors(neighborhoods: Sequence[Neighborhood], database: Database) -> None:

    if not neighborhoods:
        return
    names = find_keys(database, neighborhoods)
    answer("\nThe documents whose nearest documents differ most:")
    nearest = table(
        "document", "recall", "nearest by A", "nearest by B", names={"document", "nearest by A", "nearest by B"}
    )
    for neighborhood in neighborhoods:
        sides = ((neighborhood.a, {*neighborhood.b}, "[-{}-]"), (neighborhood.b, {*neighborhood.a}, "{{+{}+}}"))
        lists = [
            Text(
                ", ".join(printable(names[n]) if n in beside else mark.format(printable(names[n])) for n in near[:3])
            )
            for near, beside, mark in sides
        ]
        nearest.add_row(NameCell(names[neighborhood.document_id]), f"{neighborhood.recall:.2f}", *lists)
    print_rich(nearest)


def _read_texts(samples: Sequence[ComparedDocument], database: Database) -> list[tuple[ComparedDocument, str]]:
    """Return the samples with the texts of their documents, which are empty if they were removed meanwhile."""
    with database.read() as transaction:
        by_id = read_texts(transaction, {pair.content_id for pair in samples})
    return [(pair, by_id.get(pair.content_id, "")) for pair in samples]
