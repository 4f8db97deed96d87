"""`docmill search`: find the documents of a corpus whose embeddings are nearest to a text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from worker.cli.context import open_store, settings_from
from worker.cli.declared_options import PromptType
from worker.cli.exit_codes import OK, SOME_FAILED
from worker.cli.options import BACKEND, JOB_ID, check_filled, corpus_names
from worker.cli.output_files import STDOUT, write_out
from worker.cli.printing import say

if TYPE_CHECKING:
    from storage.core.database import Database
    from storage.core.specs import Spec
    from storage.readers import Record, Rejection
    from storage.search.knn import Matrix
    from storage.search.scope import Searched
    from storage.search.search import Hit
    from tasks.engine.queries import Embed

BATCH_QUERIES = 512  # queries that share one pass over the corpus
BEGINNING = 300  # characters shown of a hit without a passage


@click.command("search", epilog='Example: docmill search corpus.jsonl "a viewer for large images" --top 5')
@click.argument("corpus")
@click.argument("text", required=False)
@click.option(
    "--queries",
    metavar="FILE",
    help="Search for many texts: a .txt file with a text on each line, or JSON lines, CSV or TSV with a text and "
    "optionally an id; - reads JSON lines from standard input.",
)
@click.option("--top", type=click.IntRange(1, 1_000), default=10, show_default=True, help="Number of documents.")
@click.option(
    "--job",
    type=JOB_ID,
    help="Use the vectors of this job.  [default: the corpus's latest embed job]",
)
@click.option(
    "--exact", is_flag=True, help="Compare every document without an index, and count documents without a vector."
)
@click.option(
    "--passages/--no-passages",
    default=None,
    help="Show the sentences of each document that are nearest to the text. This embeds sentences.  "
    "[default: on for TEXT, off with --queries]",
)
@click.option(
    "--prompt",
    type=PromptType(),
    help="Prompt of the embedding model for the text, such as 'query: {text}'.  [default: the model's own prompt for "
    "queries, or else the prompt of the documents]",
)
@click.option("--prompt-name", metavar="NAME", help="One of the model's own prompts for the text.")
@click.option("--device", help="Device that embeds the text: auto, cpu, or for example cuda:0.")
@BACKEND
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line for each query.")
def search_command(
    corpus: str,
    text: str | None,
    queries: str | None,
    top: int,
    job: int | None,
    exact: bool,
    passages: bool | None,
    prompt: str | None,
    prompt_name: str | None,
    device: str | None,
    backend: str | None,
    as_json: bool,
) -> int:
    """Find the documents of CORPUS that are nearest to TEXT.

    Without TEXT, in a terminal, you type one text after another, and the model is loaded once.

    CORPUS is the name that `run --corpus` gave, or else the path of the source. First embed its documents with
    `docmill run SOURCE --task embed`. The text is embedded with the same model and settings, and compared with every
    current document of the corpus. If there is an index and it saves time, the text is compared only with documents
    that the index proposes. A score is a cosine. Documents with the same text have the same score.

    After a search on the CPU, a process keeps the model loaded for five minutes, for the next search. It needs the
    model's memory and half a gigabyte for libraries. DOCMILL_SEARCH_IDLE_S sets the time in seconds; 0 switches the
    process off. A search with --queries uses a process that is running, but does not start one.

    A JSON line is {"id", "query", "hits"}. "id" is the query's id in FILE, or null for TEXT. "hits" are
    {"id", "score", "text", "meta", "passage"}, the nearest first. With `--windows all` they also have "window", the
    [start, end) of the best window in characters. "passage" is the part of the text that matched: its nearest
    sentences, or with `--no-passages` the best window, or null if the text has one vector. Exit code 1: some queries
    could not be read or embedded.
    """
    from storage.search.search import choose
    from tasks.engine.queries import prompted
    from worker.engines.devices import choose_devices

    check_filled()
    if prompt is not None and prompt_name is not None:
        raise click.UsageError("--prompt-name and --prompt do not go together: give one of them")
    settings = settings_from(device=device, backend=backend)
    on = choose_devices(settings.device)[0]
    typed = text is None and queries is None and not as_json and sys.stdin.isatty()
    records = _typed() if typed else _queries(text, queries)
    with open_store(settings) as database:
        searched = choose(database, corpus_names(corpus), job)
        spec = prompted(searched.spec, prompt, prompt_name)
        if searched.others and job is None:
            others = "; ".join(searched.others)
            say(f"By the vectors of job {searched.job_id}, {searched.spec}; --job takes others: {others}.")
        from worker.cli.terminal import lines_above_the_bar
        from worker.queries.client import embedding

        with lines_above_the_bar(settings.log_level), embedding(settings, on, starts=queries is None) as embed:
            looks = queries is None if passages is None else passages
            search = _Search(database, searched, spec, embed, top, exact=exact, passages=looks)
            answers = search.answers(records, at_a_time=1 if typed else BATCH_QUERIES)
            if as_json:
                write_out(STDOUT, map(_as_json, answers))
            else:
                _print(answers, headed=queries is not None)
    if search.n_embedded < search.n_seen:
        lacking = search.n_seen - search.n_embedded
        say(
            f"{lacking:,} of {search.n_seen:,} documents have no vector; `docmill status {searched.job_id}` says why."
        )
    return SOME_FAILED if search.n_refused else OK


def _queries(text: str | None, file: str | None) -> Iterable[Record | Rejection]:
    from storage.core.normalize import normalize
    from storage.readers import Record, open_queries

    if (text is None) == (file is None):
        raise click.UsageError("give a TEXT, or a file of them with --queries")
    if file is not None:
        return open_queries(file, stdin=sys.stdin.buffer).records()
    if not (text or "").strip():
        raise click.BadParameter("it is empty", param_hint="TEXT")
    return [Record("", normalize(text or "")[0], {}, (), "TEXT")]


def _typed() -> Iterator[Record]:
    """Yield the texts that a person types, until an empty line or the end of input."""
    from storage.core.normalize import normalize
    from storage.readers import Record

    say("Type a text and press Enter; an empty line ends the search.")
    while True:
        say("search: ", nl=False)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield Record("", normalize(line)[0], {}, (), "TEXT")


@dataclass
class _Search:
    """Queries answered in batches, each by one walk through the corpus, or an index, under a bar.

    What cannot be is told.
    """

    database: Database
    searched: Searched
    spec: Spec
    embed: Embed
    top: int
    exact: bool
    passages: bool
    n_refused: int = 0
    n_seen: int = 0
    n_embedded: int = 0

    def answers(
        self, records: Iterable[Record | Rejection], at_a_time: int = BATCH_QUERIES
    ) -> Iterator[tuple[Record, list[Hit]]]:
        remaining = iter(records)
        while batch := list(islice(remaining, at_a_time)):
            yield from self._answered(batch)

    def _answered(self, batch: Sequence[Record | Rejection]) -> Iterator[tuple[Record, list[Hit]]]:
        import numpy as np

        from storage.readers import Record
        from storage.search.search import hits, search
        from tasks.outputs import Vector
        from worker.cli.show import bar

        records = [one for one in batch if isinstance(one, Record)]
        for one in batch:
            if not isinstance(one, Record):
                self._refuse(one.where, one.reason)
        if not records:
            return
        with bar("search", total=self.searched.n_documents) as progress:
            progress.update(0, total=self.searched.n_documents, note="embedding")
            with redirect_stdout(sys.stderr):  # whatever a library prints
                outputs = self.embed(self.spec, [record.text for record in records])
            answerable = []
            for record, output in zip(records, outputs, strict=True):
                if isinstance(output, Vector):
                    answerable.append((record, output.values))
                else:
                    self._refuse(record.where, output.reason)
            if not answerable:
                return

            def advanced(n_seen: int, n_embedded: int) -> None:
                self.n_seen, self.n_embedded = n_seen, n_embedded
                progress.update(n_seen, total=max(n_seen, self.searched.n_documents))

            vectors = np.stack([vector for _, vector in answerable])
            self.n_seen = self.n_embedded = 0
            best = search(self.database, self.searched, vectors, self.top, advanced, exact=self.exact)
            if not self.n_seen:
                progress.update(self.searched.n_documents, note="by the index")
        for (record, vector), ids, scores in zip(answerable, best.ids.tolist(), best.scores.tolist(), strict=True):
            found = hits(self.database, self.searched, vector, ids, scores)
            yield record, self._with_passages(record.text, vector, found) if self.passages else found

    def _with_passages(self, query: str, vector: Matrix, found: list[Hit]) -> list[Hit]:
        from tasks.engine import passages

        with redirect_stdout(sys.stderr):
            texts = [(hit.text, hit.window) for hit in found]
            nearest = passages.nearest(self.embed, self.spec, query, vector, texts)
        return [replace(hit, passage=span or hit.passage) for hit, span in zip(found, nearest, strict=True)]

    def _refuse(self, where: str, reason: str) -> None:
        self.n_refused += 1
        say(f"{where}: {reason}")


def _as_json(answer: tuple[Record, list[Hit]]) -> dict[str, Any]:
    record, found = answer
    return {"id": record.key or None, "query": record.text, "hits": [_hit_as_json(hit) for hit in found]}


def _hit_as_json(hit: Hit) -> dict[str, Any]:
    passage = None if hit.passage is None else hit.text[slice(*hit.passage)]
    shown = {"id": hit.id, "score": hit.score, "text": hit.text, "meta": hit.meta, "passage": passage}
    return shown if hit.window is None else shown | {"window": hit.window}


def _print(answers: Iterable[tuple[Record, list[Hit]]], *, headed: bool) -> None:
    from rich.text import Text

    from worker.cli import show

    for record, found in answers:
        if headed:
            show.paper.print(Text(_line(record.text), style="bold", overflow="ellipsis", no_wrap=True))
        show.paper.print(show.hits_table([(hit.score, hit.id, _line(_of_hit(hit))) for hit in found]))


def _of_hit(hit: Hit) -> str:
    return hit.text if hit.passage is None else hit.text[slice(*hit.passage)]


def _line(text: str) -> str:
    from worker.cli.formatting import printable

    return printable(" ".join(text[:BEGINNING].split()), keep="")
