"""`docmill corpus`: list, show, remove and trace corpora and documents."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import Any

import click

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import find_first_existing
from docmill.storage.core.normalize import bom_length, decode, normalize
from docmill.storage.core.specs import Spec
from docmill.storage.deletion import removal
from docmill.storage.deletion.paging import Removed
from docmill.storage.deletion.removal import Condition, Trace, select_keys, trace
from docmill.storage.results import corpora
from docmill.storage.results.corpora import CorpusState
from docmill.worker import formatting, inventory
from docmill.worker.cli.options import JSON, YES, FilledPath
from docmill.worker.cli.printing import OK, SOME_FAILED, answer, confirm, print_json, print_rich, say
from docmill.worker.consoles import NameCell, jobs_table, table
from docmill.worker.formatting import counted
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.settings import load_settings
from docmill.worker.stores import corpus_names, open_store
from docmill.worker.terminal import warn

NAME = click.argument("name")
MENTIONED = 5


@click.group("corpus", epilog="Example: docmill corpus list && docmill corpus show articles.jsonl")
def corpus_command() -> None:
    """List, show or remove corpora and their documents, and trace where a text still is."""


@corpus_command.command("list", epilog="Example: docmill corpus list --json | jq '.[].name'")
@JSON
def list_command(as_json: bool) -> None:
    """List the corpora, with their documents and results by spec."""
    with open_store(load_settings()) as database:
        listed = corpora.list_corpora(database)
    if as_json:
        print_json([_as_json(corpus) for corpus in listed])
        return
    if not listed:
        say("No corpora yet; `docmill run summarize SOURCE` makes one.")
        return
    made = table(
        "corpus",
        "documents",
        "results",
        "of",
        "last reading",
        names={"corpus", "of"},
        numbers={"documents", "results"},
    )
    for corpus in listed:
        last = formatting.local_time(corpus.ingests[0].started_at) if corpus.ingests else ""
        names = _tell_apart(corpus, lambda spec: f"{spec.kind} {spec.params.get('adapter', spec.model)}")
        results = [(f"{row.done:,}", name) for row, name in zip(corpus.specs, names, strict=True)]
        results = results or [("", NameCell(""))]
        made.add_row(NameCell(corpus.name), f"{corpus.documents:,}", *results[0], last)
        for more in results[1:]:
            made.add_row("", "", *more, "")
    print_rich(made)


@corpus_command.command("show", epilog="Example: docmill corpus show articles.jsonl --json")
@NAME
@JSON
def show_command(name: str, as_json: bool) -> None:
    """Show the corpus NAME: latest readings, jobs and results."""
    with open_store(load_settings()) as database:
        corpus = corpora.read_corpus(database, find_first_existing(database, corpus_names(name)))
    if as_json:
        print_json(_as_json(corpus))
        return
    answer(
        f"{corpus.name}: {formatting.documents(corpus.documents)}, made {formatting.local_time(corpus.created_at)}"
    )
    count_columns = ("done", "failed", "skipped", "to do")
    specs = table("spec", "of", *count_columns, "as of job", names={"of"}, numbers=count_columns)
    for row, cell in zip(corpus.specs, _tell_apart(corpus, str), strict=True):
        counts = [f"{n:,}" for n in (row.done, row.failed, row.skipped, row.pending)]
        specs.add_row(str(row.spec_id), cell, *counts, str(row.job))
    read = ("records", "new", "changed", "unchanged", "rejected")
    readings = table("reading", "began", "state", *read, numbers=read)
    for reading in corpus.ingests:
        n_records = reading.records + reading.rejected
        counts = [f"{n:,}" for n in (n_records, reading.new, reading.changed, reading.unchanged, reading.rejected)]
        readings.add_row(str(reading.id), formatting.local_time(reading.started_at), reading.state, *counts)
    sources = table("reading", "vanished", "source", names={"source"}, numbers={"vanished"})
    for reading in corpus.ingests:
        sources.add_row(str(reading.id), f"{reading.vanished:,}", NameCell(reading.source))
    for part in (specs, readings, sources, jobs_table(corpus.jobs)):
        answer("")
        print_rich(part)


def _tell_apart(corpus: CorpusState, name: Callable[[Spec], str]) -> list[NameCell]:
    """Return the names of a corpus' specs. Those of one name have also model, precision and differing options."""
    specs = [row.spec for row in corpus.specs]
    others = [next((other for other in specs if other != spec and name(other) == name(spec)), None) for spec in specs]
    return [
        NameCell(name(spec) if other is None else f"{spec}{formatting.describe_difference(other, spec)}")
        for spec, other in zip(specs, others, strict=True)
    ]


@corpus_command.command("rm", epilog="Example: docmill corpus rm articles.jsonl --document a17 --document a18 --yes")
@NAME
@click.option(
    "--document", "ids", multiple=True, metavar="ID", help="Remove only this document, in every version; repeatable."
)
@click.option(
    "--where",
    "wheres",
    multiple=True,
    metavar="meta.FIELD=VALUE",
    help="Remove only documents with this value in the metadata of any version; repeat it to combine conditions "
    "with AND.",
)
@click.option("--vanished", is_flag=True, help="Remove only documents that vanished from their source (see --prune).")
@YES
@JSON
def rm_command(
    name: str, ids: tuple[str, ...], wheres: tuple[str, ...], vanished: bool, yes: bool, as_json: bool
) -> int:
    """Remove the corpus NAME, or documents of it, with their results. A result that other documents need stays.

    The command removes all versions of the documents, their texts, and all results of these texts, also of later
    steps. With a whole corpus it also removes its readings and jobs. It refuses while a job works on the corpus. If
    other documents have the same text, the text stays, and the command names them. Exit code 1: an ID does not
    exist, or no document matches --where. docmill cannot remove backups and exported files: see docs/removing.md.
    """
    if ids and (wheres or vanished):
        raise click.UsageError("--document names the documents; leave it out to choose them by --where or --vanished")
    conditions = [Condition.parse(where) for where in wheres]
    ids = tuple(dict.fromkeys(normalize(key)[0] for key in ids))
    settings = load_settings()
    with open_store(settings) as database:
        name = find_first_existing(database, corpus_names(name))
        missing = removal.find_unknown_keys(database, name, ids)
        keys, documents = _choose(database, name, ids, conditions, vanished)
        if keys != [] and not yes and not confirm(f"This removes {documents}, and every result {_LEFT}"):
            return BAD_INPUT
        same = [] if keys is None else removal.find_same_texts(database, name, keys)
        if keys is None:
            removed = removal.remove_corpus(database, name)
        else:
            removed = removal.remove_documents(database, name, keys, only_vanished=vanished)
        uncleared = inventory.clear(settings, database)
    if as_json:
        counts = {name: n for name, n in asdict(removed).items() if name != "others"}
        print_json({**counts, "missing": missing, "same_text": same})
    elif keys != []:
        _say_removed(removed)
    if keys == []:
        (warn if wheres else say)(f"Nothing was removed: {documents}.")
    for sentence in (*_said_of_same(same), *uncleared):
        say(sentence)
    if missing:
        shown = ", ".join(missing[:MENTIONED]) + (" …" if len(missing) > MENTIONED else "")
        verb = "is" if len(missing) == 1 else "are"
        warn(f"{counted(len(missing), 'document')} of those named {verb} not in {name}: {shown}")
    return SOME_FAILED if missing or (wheres and not keys) else OK


_LEFT = "that nothing else needs."


def _said_of_same(documents: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield a sentence for each corpus in which documents keep a removed text, with the command that removes them."""
    for corpus, grouped in groupby(documents, key=lambda document: document[0]):
        keys = [key for _, key in grouped]
        options = " ".join(f"--document {shlex.quote(key)}" for key in keys[:MENTIONED])
        more = f" and {formatting.documents(len(keys) - MENTIONED)} more" if len(keys) > MENTIONED else ""
        named = f"{', '.join(keys[:MENTIONED])}{more}"
        yield (
            f"The same text stays in the corpus {corpus}, in {named}. This removes it there, too: "
            f"docmill corpus rm {shlex.quote(corpus)} {options}"
        )


def _choose(
    database: Database, name: str, ids: tuple[str, ...], conditions: list[Condition], vanished: bool
) -> tuple[list[str] | None, str]:
    """Return the ids of the documents that are to be removed (None: the whole corpus), and words for them."""
    if conditions or vanished:
        keys = select_keys(database, name, conditions, only_vanished=vanished)
        if not keys:
            return [], _none_is(name, conditions, vanished)
        which = [f"of which a version has {' and '.join(map(str, conditions))}"] if conditions else []
        which += ["that vanished from their source"] if vanished else []
        return keys, f"{formatting.documents(len(keys))} of the corpus {name} {' and '.join(which)}"
    corpus = corpora.read_corpus(database, name)
    if ids:
        present = len(ids) - len(removal.find_unknown_keys(database, name, ids))
        return [*ids], f"{present:,} of the {corpus.documents:,} documents of the corpus {name}"
    return None, f"the corpus {name} ({formatting.documents(corpus.documents)}), its readings and its jobs"


def _none_is(name: str, conditions: list[Condition], vanished: bool) -> str:
    if not conditions:
        return f"no document of {name} has vanished from its source"
    return f"no {'vanished ' * vanished}document of {name} has {' and '.join(map(str, conditions))}"


def _say_removed(removed: Removed) -> None:
    parts = [f"{formatting.documents(removed.documents)} (all versions)", counted(removed.contents, "text")]
    parts += [counted(removed.outcomes, "result")]
    if removed.jobs or removed.ingests:
        parts += [counted(removed.jobs, "job"), counted(removed.ingests, "reading")]
    say(f"Removed: {', '.join(parts)}.")


@corpus_command.command("trace", epilog="Example: docmill corpus trace letter.txt")
@click.argument("file", type=FilledPath(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@JSON
def trace_command(file: Path, as_json: bool) -> int:
    """Report where the text in FILE still is in the store. FILE may be -, standard input.

    The command looks for the whole stored text, with or without white space at its ends, and for the text's bytes
    in this machine's files, where it also finds longer texts that contain it. It does not find names of documents,
    and says which places it did not search. Exit code 0: the text is nowhere in the store; 1: it was found.
    """
    with click.open_file(str(file), "rb") as stream:
        raw = stream.read()
    text, _ = normalize(decode(raw[bom_length(raw) :])[0])
    if not text.strip():
        raise click.BadParameter("it has no text", param_hint="FILE")
    settings = load_settings()
    with open_store(settings) as database:
        files = inventory.files(settings, database)
        traces = [trace(database, variant, files) for variant in dict.fromkeys((text, text.strip()))]
        places = [*inventory.places(database)]
    best = next((variant for variant in traces if variant.stored), traces[-1])
    searched = [place.name for place in places if place.traced]
    left_out = [place.name for place in places if not place.traced]
    if as_json:
        print_json(asdict(best) | {"nowhere": best.is_nowhere, "searched": searched, "not_searched": left_out})
    else:
        for line in (*_said(best), *_listed("Searched for the whole text:", searched)):
            answer(line)
        for line in _listed("Not searched: names of documents, texts that only contain this one, and", left_out):
            answer(line)
    return OK if best.is_nowhere else SOME_FAILED


def _listed(heading: str, names: Sequence[str]) -> list[str]:
    wrapped = [fill(name.replace("`", ""), 78, initial_indent="- ", subsequent_indent="  ") for name in names]
    return [heading, *wrapped]


def _said(trace: Trace) -> list[str]:
    if trace.is_nowhere:
        return [f"{trace.sha256} is nowhere in the store as a whole text."]
    lines = [f"document {key} of {corpus}{_state_of((corpus, key), trace)}" for corpus, key in trace.documents]
    if trace.stored:
        lines += [
            f"{counted(trace.outcomes, 'result')} of it",
            f"{counted(trace.output_of, 'result')} with it as output",
        ]
    if trace.indexed:
        lines.append(f"{trace.indexed:,} vectors of it are in an index of `docmill index list`")
    if trace.stored and not trace.documents and not trace.output_of:
        lines.append("nothing refers to it; `docmill gc texts` removes it")
    lines += [f"its bytes, or the same ones of another text, are in {file}" for file in trace.remnants]
    if not trace.stored:
        lines.append("no row has it as its whole text. If no text contains it, `sqlite3 FILE VACUUM` removes it")
    return lines


def _state_of(document: tuple[str, str], trace: Trace) -> str:
    if document in trace.vanished:
        return (
            f", which vanished from its source; `docmill corpus rm {shlex.quote(document[0])} --vanished` removes it"
        )
    return ", in an older version" if document in trace.superseded else ""


def _as_json(corpus: CorpusState) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "documents": corpus.documents,
        "created_at": corpus.created_at,
        "specs": [vars(row) | {"spec": str(row.spec)} for row in corpus.specs],
        "ingests": [asdict(reading) for reading in corpus.ingests],
        "jobs": [formatting.as_json(job) for job in corpus.jobs],
    }
