"""`docmill index`: make, list and drop indexes of vectors. An admin makes them, never a worker."""

from __future__ import annotations

from dataclasses import asdict

import click

from docmill.storage.deletion import gc
from docmill.storage.search import pgvector_index
from docmill.storage.search.search import choose
from docmill.worker.cli.options import JOB_ID, JSON, settings_from
from docmill.worker.cli.printing import OK, listen, print_json, print_rich, say
from docmill.worker.consoles import NameCell, table
from docmill.worker.formatting import counted
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.stores import corpus_names, open_store


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
def add_command(corpus: str, job: int | None, as_json: bool) -> int:
    """Make or update the index of the vectors of CORPUS.

    The command needs the privileges of the tables' owner. An index covers all vectors of a spec, of every corpus.
    Search also finds documents that were embedded later, but compares them one by one. Run the command again when
    `docmill index list` shows that many vectors are missing from the index. You may interrupt it, and run it beside
    any other command.
    """
    with open_store(settings_from()) as database:
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
    return OK


@index_command.command("list", epilog="Example: docmill index list --json | jq '.[] | select(.lacking > 1000)'")
@JSON
def list_command(as_json: bool) -> int:
    """List the indexes, with their vectors, missing texts and size."""
    with open_store(settings_from()) as database:
        indexes = pgvector_index.every(database)
    if as_json:
        print_json([{**asdict(index), "spec": str(index.spec)} for index in indexes])
        return OK
    if not indexes:
        say("No indexes yet.")
        return OK
    counted = ("vectors", "lacking", "size")
    made = table("spec", "of", *counted, "state", names={"of"}, numbers=counted)
    for index in indexes:
        size = f"{index.size_bytes / 1e6:,.0f} MB"
        state = "ready" if index.ready else "unfinished: docmill index add"
        made.add_row(
            str(index.spec_id), NameCell(str(index.spec)), f"{index.vectors:,}", f"{index.lacking:,}", size, state
        )
    print_rich(made)
    return OK


@index_command.command("rm", epilog="Example: docmill index rm 3")
@click.argument("spec")
@JSON
def rm_command(spec: str, as_json: bool) -> int:
    """Drop the index of SPEC. Vectors and search stay.

    SPEC is its number in `docmill index list`, or KIND/MODEL.
    """
    with open_store(settings_from()) as database:
        dropped = [spec_id for spec_id in gc.specs(database, spec) if pgvector_index.drop(database, spec_id)]
    if as_json:
        print_json({"dropped": dropped})
    elif dropped:
        say(f"Dropped the index of spec {', '.join(map(str, dropped))}.")
    if not dropped:
        say(f"There is no index of {spec}; `docmill index list` names them.")
    return OK if dropped else BAD_INPUT
