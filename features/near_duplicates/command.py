"""`docmill dedup`: find near duplicates in a corpus."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from docmill.features.near_duplicates import clusters, report
from docmill.features.near_duplicates.clusters import DedupOptions, SearchWork, deduplicate
from docmill.features.near_duplicates.methods import Unit, to_json
from docmill.features.near_duplicates.report import DuplicateCounts, Sample
from docmill.storage.core.database import Database
from docmill.storage.outputs.columns import Column, Form
from docmill.storage.writers import Target
from docmill.worker import formatting
from docmill.worker.cli.options import FORMAT, JOB_ID, JSON, OUT, Choice, number, whole_number
from docmill.worker.cli.printing import answer, listen, print_json, print_rich, say, write_out
from docmill.worker.jobs.outputs import STDOUT, require_target
from docmill.worker.settings import load_settings
from docmill.worker.stores import find_named_corpus, open_store

SAMPLES, SAMPLES_SHOWN = 3, 20  # clusters that `find` and `show` print
MEMBERS = 4  # documents printed of a cluster


CORPUS = click.argument("corpus")
ROWS = click.option("--out", type=OUT, help="Write a row for each document in a cluster to a file, or to stdout (-).")


@click.group("dedup")
def dedup_command() -> None:
    """Find near duplicates in a corpus, and put them into clusters.

    With `--leave-out near-duplicates`, `docmill run` and the steps of pipelines read only the document of each
    cluster that came into the corpus first. The view `near_duplicates` has the clusters in SQL.
    """


@dedup_command.command("find", epilog="Example: docmill dedup find articles.jsonl --threshold 0.7")
@CORPUS
@click.option(
    "--threshold",
    type=number(0, 1, min_open=True),
    help="Least similarity of near duplicates.  [default: 0.8; for embeddings 0.95]",
)
@click.option(
    "--shingle",
    type=(Choice(["words", "characters"]), whole_number(1, 100)),
    metavar="UNIT N",
    help="Compare texts by their runs of N words, or of N characters.  [default: words 3]",
)
@click.option("--seed", type=whole_number(0, 2**31 - 1), help="Seed of the MinHash signatures.  [default: 1]")
@click.option("--embeddings", is_flag=True, help="Compare the vectors of the corpus's latest embed job.")
@click.option("--job", type=JOB_ID, help="Compare the vectors of this job.")
@ROWS
@FORMAT
@JSON
def find_command(
    corpus: str,
    threshold: float | None,
    shingle: tuple[Unit, int] | None,
    seed: int | None,
    embeddings: bool,
    job: int | None,
    out: Path | None,
    file_format: str | None,
    as_json: bool,
) -> None:
    """Put documents of CORPUS that are nearly the same into clusters.

    CORPUS is the name that `run --corpus` gave, or else the path of the source. Two texts are near duplicates if
    they share most of their runs of three words: the Jaccard similarity of these sets is at least the threshold.
    docmill ignores case and punctuation. A chain of near duplicates is one cluster.

    The next search compares only new documents, by default with the options of the last search.
    """
    options = DedupOptions(threshold, shingle, seed, embeddings, job)
    _report(corpus, options, out, file_format, as_json)


@dedup_command.command("show", epilog="Example: docmill dedup show articles.jsonl --out clusters.csv")
@CORPUS
@ROWS
@FORMAT
@JSON
def show_command(corpus: str, out: Path | None, file_format: str | None, as_json: bool) -> None:
    """Show the clusters that the last search in CORPUS found."""
    _report(corpus, None, out, file_format, as_json)


@dedup_command.command("forget", epilog="Example: docmill dedup forget articles.jsonl")
@CORPUS
def forget_command(corpus: str) -> None:
    """Remove the clusters of CORPUS; documents and results stay."""
    with open_store(load_settings()) as database:
        corpus_id, _ = find_named_corpus(database, corpus)
        answer(f"Removed the clusters of {formatting.documents(clusters.forget(database, corpus_id))}.")


def _report(
    corpus: str,
    options: DedupOptions | None,
    out: Path | None,
    file_format: str | None,
    as_json: bool,
) -> None:
    """Search, if there are options for a search, and print the clusters."""
    if as_json and out == STDOUT:
        raise click.UsageError("--json and --out - both write to stdout; leave one out")
    target = require_target(out, file_format)
    with open_store(load_settings()) as database:
        corpus_id, name = find_named_corpus(database, corpus)
        work = None if options is None else deduplicate(database, corpus_id, name, options, listen())
        summary = report.summarize(database, corpus_id, name)
        if out is not None:
            _write(database, corpus_id, target, summary.in_clusters)
        samples = report.read_samples(database, corpus_id, SAMPLES_SHOWN if options is None else SAMPLES, MEMBERS)
    if as_json:
        print_json(_as_json(name, summary, work, samples))
    elif out != STDOUT:
        _print_report(corpus, summary, work, samples)


def _write(database: Database, corpus_id: int, target: Target, n: int) -> None:
    forms = {"id": Form.TEXT, "first": Form.TEXT, "is_first": Form.BOOLEAN, "documents": Form.INTEGER}
    columns = [Column.of(name, form) for name, form in forms.items()]
    write_out(report.read_members(database, corpus_id), target, columns, n)


def _print_report(corpus: str, summary: DuplicateCounts, work: SearchWork | None, samples: list[Sample]) -> None:
    from docmill.worker.consoles import NameCell, table

    if summary.clusters:
        clusters = formatting.counted(summary.clusters, "cluster")
        repeats = f"{summary.repeats:,} repeat{'s' * (summary.repeats == 1)} an earlier one"
        answer(f"{clusters} with {summary.in_clusters:,} of {formatting.documents(summary.documents)}: {repeats}.")
        share = 100 * summary.repeated_chars / max(1, summary.chars)
        answer(
            f"--leave-out leaves out {summary.repeated_texts:,} of {summary.texts:,} unique texts, "
            f"{share:.1f} % of the characters."
        )
    else:
        answer(f"No near duplicates among {formatting.documents(summary.documents)}.")
    if work is None:
        newer = f"; {formatting.documents(summary.new)} came since" if summary.new else ""
        say(f"{summary.method}; searched {formatting.local_time(summary.finished_at)}{newer}.")
    else:
        say(f"{summary.method}; {formatting.documents(work.new)} new, {work.compared:,} pairs compared.")
        if work.without_vector:
            say(f"{formatting.documents(work.without_vector)} without a vector were not compared.")
    for n_documents, members in samples:
        cluster = table("", "document", "text", names={"document", "text"})
        for rank, (key, text) in enumerate(members):
            cluster.add_row("" if rank else "first", NameCell(key), NameCell(text))

        answer("")
        print_rich(cluster)
        if (more := n_documents - len(members)) > 0:
            answer(f"      and {formatting.counted(more, 'more document')}")
    if len(samples) < summary.clusters:
        advice = f"More: docmill dedup show {corpus}. " if work is not None else ""
        say(f"{advice}All: docmill dedup show {corpus} --out FILE")


def _as_json(name: str, summary: DuplicateCounts, work: SearchWork | None, samples: list[Sample]) -> dict[str, Any]:
    counts = {} if work is None else {"compared": work.compared, "without_vector": work.without_vector}
    of_clusters = []
    for n_documents, members in samples:
        first, *others = ({"id": key, "text": text} for key, text in members)
        of_clusters.append({"documents": n_documents, "first": first, "others": others})
    method = {"method": to_json(summary.method)}
    return {"corpus": name, **asdict(summary), **method, **counts, "samples": of_clusters}
