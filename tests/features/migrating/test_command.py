"""`docmill migrate`: the way of a corpus to another model and back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from docmill.features.migrating import command
from docmill.storage.errors import NotFound
from docmill.storage.extras import Extra
from docmill.worker import engines
from tests.worker.conftest import Call
from tests.worker.harness import Docmill

WriteCorpus = Callable[..., Path]
TEXTS = [
    {"id": "t1", "text": "The app forgets my password after each update."},
    {"id": "t2", "text": "I cannot open the invoice of March."},
    {"id": "t3", "text": "Please send me the manual in Spanish."},
]
PIPELINE = """
name = "nightly"
[corpus]
source = "corpus.jsonl"
name = "tickets"
[[step]]
name = "meaning"
task = "embed"
model = "null"
"""
TO_9000 = ("migrate", "run", "tickets", "--from", "null", "--to", "null@9000")


def search(docmill: Docmill) -> tuple[str, set[str]]:
    """Return the model by which a search answers, and the documents that it finds."""
    result = docmill("search", "tickets", "login data", "--no-passages", "--json")
    model, *_others = re.findall(r"embed with (null\S*)@", result.stderr)
    return model, {hit["id"] for hit in json.loads(result.stdout)["hits"]}


def test_search_and_runs_of_pipelines_change_to_the_new_model_and_back(
    embedded: Docmill, write_corpus: WriteCorpus
) -> None:
    write_corpus(TEXTS)
    (embedded.folder / "nightly.toml").write_text(PIPELINE)
    embedded("pipeline", "add", "nightly.toml")
    embedded("pipeline", "run", "nightly.toml")

    cost = embedded.json(*TO_9000, "--dry-run")
    assert (cost["documents"], cost["done_already"], cost["to"]["model"]) == (3, 0, "null@9000")
    assert cost["tokens_to_do"] > 0
    question = embedded(*TO_9000, code=2).stderr
    assert "s on cpu (" in question
    assert "Nothing was changed. Give --yes to confirm." in question
    assert embedded.json("migrate", "status", "tickets") == []

    done = embedded.json(*TO_9000, "--yes")
    assert (done["state"], done["answers"], done["documents"], done["lost"]) == ("switched", "null@9000", 3, 0)
    assert search(embedded) == ("null@9000", {"t1", "t2", "t3"})
    job = embedded.json("status", done["job"])
    assert job["priority"] < 0
    assert job["migration"] == "the backfill from null to null@9000: switched"
    assert "embed (migration)" in embedded("jobs").stdout
    assert "from null to null@9000: switched" in embedded("status", 1).stdout

    write_corpus([*TEXTS, {"id": "t4", "text": "My login does not work any more."}])
    messages = embedded("pipeline", "run", "nightly.toml").stderr
    assert "Step meaning: the corpus was migrated; null@9000 replaces null." in messages
    assert search(embedded) == ("null@9000", {"t1", "t2", "t3", "t4"})
    assert embedded("results", "tickets").stdout == embedded("results", 3).stdout
    again = embedded(*TO_9000).stderr
    assert "was switched to null@9000 before" in again
    assert "1 of 4 documents have no result of null" in embedded("migrate", "back", "tickets", code=2).stderr
    embedded("migrate", "back", "tickets", "--yes")
    assert search(embedded)[0] == "null"
    assert "nothing to take back" in embedded("migrate", "back", "tickets", code=2).stderr


def test_what_cannot_be_migrated_is_refused_with_what_to_do(embedded: Docmill, write_corpus: WriteCorpus) -> None:
    write_corpus(TEXTS)
    run = ("run", "embed", "corpus.jsonl", "--corpus", "tickets")
    embedded(*run, "--model", "null")

    def refused(old: str, new: str) -> str:
        return embedded("migrate", "run", "tickets", "--from", old, "--to", new, "--yes", code=2).stderr

    assert "has a step with the model opus; models of this corpus: null" in refused("opus", "minilm")
    assert "there is nothing to migrate" in refused("null", "null")
    assert "No migration of tickets is under way" in embedded("migrate", "cancel", "tickets", "-q", code=2).stderr
    embedded(*run, "--model", "null", "--window-vectors", "all")
    several = refused("null", "minilm")
    assert "several kinds of results of null; choose by --job, --step or both" in several
    assert "job 1, step embed" in several


@pytest.mark.parametrize(
    ("escalation", "options", "expected"),
    [((), ("--enqueue",), ()), ((), (), ["remote"]), (("--escalate-beams", "4"), (), ["cuda:0"])],
)
def test_a_migration_takes_only_the_devices_that_it_needs(
    call: Call,
    write_corpus: WriteCorpus,
    monkeypatch: pytest.MonkeyPatch,
    escalation: tuple[str, ...],
    options: tuple[str, ...],
    expected: Sequence[str],
) -> None:
    """Workers need none, and a client without the models' libraries has none. Served models alone need no GPU."""
    write_corpus(TEXTS)
    task = ("translate", "corpus.jsonl", "--model", "null", "--from", "fr", "--to", "en")
    call("enqueue", *task, "--corpus", "tickets", *escalation)
    devices: list[Sequence[str]] = []

    def possible(*arguments: Any) -> NoReturn:
        devices.append(arguments[-1])
        raise NotFound("this test ends here")

    monkeypatch.setattr(command, "require_possible", possible)
    monkeypatch.setattr(engines, "cuda_devices", lambda: ["cuda:0"])
    if options:
        monkeypatch.setattr(engines, "LOCAL", Extra("local", ("no_such_library",), ""))
    call("migrate", "run", "tickets", "--from", "null", "--to", "openai:m", "--yes", *options, code=2)
    assert devices == [expected]
