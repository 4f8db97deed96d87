"""`docmill search`: find the documents of a corpus whose embeddings are nearest to a text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

import click

from docmill.storage.deletion import gc
from docmill.storage.readers import Record, Rejection, open_queries
from docmill.storage.search import pgvector_index
from docmill.storage.search.search import StoredHit, choose
from docmill.worker.cli.options import BACKEND, JOB_ID, JSON, PROMPT, check_filled, whole_number
from docmill.worker.cli.printing import OK, SOME_FAILED, listen, print_json, print_rich, say, write_out
from docmill.worker.consoles import NameCell, table
from docmill.worker.formatting import counted, documents, printable
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.jobs.search import BATCH_QUERIES, MOST_HITS, SearchOptions, open_search, query_record
from docmill.worker.settings import load_settings
from docmill.worker.stores import corpus_names, open_store
from docmill.worker.terminal import warn

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
@click.option("--top", type=whole_number(1, MOST_HITS), default=10, show_default=True, help="Number of documents.")
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
    type=PROMPT,
    help="Prompt of the embedding model for the text, such as 'query: {text}'.  [default: the model's own prompt for "
    "queries, or else the prompt of the documents]",
)
@click.option("--model-prompt", "prompt_name", metavar="NAME", help="One of the model's own prompts for the text.")
@click.option("--device", help="Device that embeds the text, such as cpu or cuda:0.")
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

    Without TEXT, you type one text after another in a terminal; the command loads the model once.

    CORPUS is the name that `run --corpus` gave, or else the path of the source. First embed its documents with
    `docmill run embed SOURCE`. docmill embeds the text with the same model and settings, and compares it with every
    current document of the corpus. If an index saves time, it compares the text only with documents that the index
    proposes. A score is a cosine. Documents with the same text have the same score.

    A JSON line is {"id", "query", "hits"}. "id" is the query's id in FILE, or null for TEXT. "hits" are
    {"id", "score", "text", "meta", "passage"}, the nearest first. With `--window-vectors all` they also have
    "window", the [start, end) of the best window in characters. "passage" is the part of the text that matched: its
    nearest sentences, or with `--no-passages` the best window, or null if the text has one vector. Exit code 1: some
    queries could not be read or embedded.
    """
    check_filled()
    if prompt is not None and prompt_name is not None:
        raise click.UsageError("--model-prompt and --prompt do not go together: give one of them")
    settings = load_settings(device=device, backend=backend)
    typed = text is None and queries is None and not as_json and sys.stdin.isatty()
    looks = queries is None if passages is None else passages
    wanted = SearchOptions(top, job, exact, looks, prompt, prompt_name)
    refused: list[str] = []

    def refuse(where: str, reason: str) -> None:
        refused.append(where)
        warn(f"{where}: {reason}")

    records = _typed() if typed else _queries(text, queries)
    with (
        open_store(settings) as database,
        open_search(
            settings,
            database,
            corpus,
            wanted,
            refuse,
            listen(settings),
            printing=lambda: redirect_stdout(sys.stderr),
        ) as search,
    ):
        answers = search.answers(records, at_a_time=1 if typed else BATCH_QUERIES)
        if as_json:
            write_out(map(_as_json, answers))
        else:
            _print(answers, headed=queries is not None)
    if search.n_embedded < search.n_seen:
        lacking, job_id = search.n_seen - search.n_embedded, search.searched.job_id
        have = "has" if lacking == 1 else "have"
        say(
            f"{lacking:,} of {documents(search.n_seen)} {have} no vector: "
            f"see `docmill status {job_id}` and `docmill failures {job_id}`."
        )
    return SOME_FAILED if refused else OK


def _queries(text: str | None, file: str | None) -> Iterable[Record | Rejection]:
    if (text is None) == (file is None):
        raise click.UsageError("give a TEXT, or a file of them with --queries")
    if file is not None:
        return open_queries(file).records()
    if not (text or "").strip():
        raise click.BadParameter("it is empty", param_hint="TEXT")
    return [query_record(text or "", "TEXT")]


def _typed() -> Iterator[Record]:
    """Yield the texts that a person types, until an empty line or the end of input."""
    say("Type a text and press Enter; an empty line ends the search.")
    while True:
        say("search: ", nl=False)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield query_record(line, "TEXT")


def _as_json(answer: tuple[Record, list[StoredHit]]) -> dict[str, Any]:
    record, hits = answer
    return {"id": record.key or None, "query": record.text, "hits": [_hit_as_json(hit) for hit in hits]}


def _hit_as_json(hit: StoredHit) -> dict[str, Any]:
    shown = {"id": hit.id, "score": hit.score, "text": hit.text, "meta": hit.meta, "passage": hit.matched}
    return shown if hit.window is None else shown | {"window": hit.window}


def _print(answers: Iterable[tuple[Record, list[StoredHit]]], *, headed: bool) -> None:
    from rich.text import Text

    from docmill.worker.consoles import hits_table

    for record, hits in answers:
        if headed:
            print_rich(Text(_line(record.text), style="bold", overflow="ellipsis", no_wrap=True))
        print_rich(hits_table([(hit.score, hit.id, _line(hit.matched or hit.text)) for hit in hits]))


def _line(text: str) -> str:
    return printable(" ".join(text[:BEGINNING].split()), keep="")


@click.group("index", epilog="Example: docmill index add articles.jsonl && docmill index list")
def index_command() -> None:
    """Make indexes of vectors for `docmill search`, list them and drop them.

    Indexes need PostgreSQL with pgvector 0.8 or newer. They make search in a large corpus faster, with the same
    scores.
    """


@index_command.command("add", epilog="Example: docmill index add articles.jsonl --job 7")
@click.argument("corpus")
@click.option(
    "--job",
    type=JOB_ID,
    help="Index the vectors of this job.  [default: the corpus's latest embed job]",
)
@JSON
def add_command(corpus: str, job: int | None, as_json: bool) -> None:
    """Make or update the index of the vectors of CORPUS.

    The command needs the privileges of the tables' owner. An index covers all vectors of a spec, of every corpus.
    Search also finds documents that were embedded later, but compares them one by one. Run the command again when
    `docmill index list` shows that many vectors are missing from the index. You may interrupt it, and run it beside
    any other command.
    """
    with open_store(load_settings()) as database:
        searched = choose(database, corpus_names(corpus), job)
        with listen().bar("index") as progress:

            def advanced(n_added: int) -> None:
                progress.update(n_added, count=counted(n_added, "text"), remark="and then the graph")

            n_added = pgvector_index.add(database, searched.spec_id, advanced)
    if as_json:
        print_json({"spec": searched.spec_id, "added": n_added})
    else:
        added = f"{counted(n_added, 'text')} {'was' if n_added == 1 else 'were'} added"
        say(f"The index of spec {searched.spec_id}, {searched.spec}, is up to date: {added}.")


@index_command.command("list", epilog="Example: docmill index list --json | jq '.[] | select(.lacking > 1000)'")
@JSON
def list_command(as_json: bool) -> None:
    """List the indexes, with their vectors, missing texts and size."""
    with open_store(load_settings()) as database:
        indexes = pgvector_index.list_indexes(database)
    if as_json:
        print_json([{**asdict(index), "spec": str(index.spec)} for index in indexes])
        return
    if not indexes:
        say("No indexes yet.")
        return
    count_columns = ("vectors", "lacking", "size")
    made = table("spec", "of", *count_columns, "state", names={"of"}, numbers=count_columns)
    for index in indexes:
        size = f"{index.size_bytes / 1e6:,.0f} MB"
        state = "ready" if index.ready else "unfinished: docmill index add"
        made.add_row(
            str(index.spec_id), NameCell(str(index.spec)), f"{index.vectors:,}", f"{index.lacking:,}", size, state
        )
    print_rich(made)


@index_command.command("rm", epilog="Example: docmill index rm 3")
@click.argument("spec")
@JSON
def rm_command(spec: str, as_json: bool) -> int:
    """Drop the index of SPEC. Vectors and search stay.

    SPEC is its number in `docmill index list`, or KIND/MODEL.
    """
    with open_store(load_settings()) as database:
        dropped = [spec_id for spec_id in gc.specs(database, spec) if pgvector_index.drop(database, spec_id)]
    if as_json:
        print_json({"dropped": dropped})
    elif dropped:
        say(f"Dropped the index of spec {', '.join(map(str, dropped))}.")
    if not dropped:
        warn(f"There is no index of {spec}; `docmill index list` names them.")
    return OK if dropped else BAD_INPUT
