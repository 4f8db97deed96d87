"""`docmill compare`: the results of two jobs side by side, and how far they agree."""

from __future__ import annotations

import click

from docmill.features.comparing.comparison import compare, side
from docmill.features.comparing.terminal import as_json as as_json_of
from docmill.features.comparing.terminal import print_comparison
from docmill.storage.core.lookups import find_corpus, first_existing
from docmill.worker.cli.options import JOB_ID, JSON, WholeNumber, settings_from
from docmill.worker.cli.printing import OK, listen, print_json, say
from docmill.worker.formatting import documents
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.stores import corpus_names, open_store

MOST_SAMPLES = 1_000


@click.command("compare", epilog="Example: docmill compare tickets --job 3 --job 7 --samples 5")
@click.argument("corpus")
@click.option("--job", "jobs", type=JOB_ID, multiple=True, required=True, help="A job to compare; give it twice.")
@click.option("--step", help="Step to compare, of jobs with several steps.")
@click.option(
    "--samples", type=WholeNumber(0, MOST_SAMPLES), default=3, show_default=True, help="Number of documents shown."
)
@click.option("--seed", type=WholeNumber(0, 2**31 - 1), default=0, show_default=True, help="Seed of the sample.")
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
    with open_store(settings_from()) as database:
        name = first_existing(database, corpus_names(corpus))
        corpus_id = find_corpus(database, name)
        a, b = (side(database, corpus_id, job, step) for job in jobs)
        with listen().bar("compare") as progress:

            def advanced(n: int) -> None:
                progress.update(n, count=documents(n))

            comparison = compare(database, corpus_id, a, b, samples=samples, seed=seed, advanced=advanced)
        if as_json:
            print_json(as_json_of(comparison, database))
        else:
            print_comparison(comparison, database)
    if not comparison.both:
        say(f"No document that is in the corpus {name} now has a result of both jobs.")
        return BAD_INPUT
    return OK
