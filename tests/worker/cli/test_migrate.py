"""`docmill migrate`: a stranger's way through it, with a real model, on each store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
TO_MINILM = ("migrate", "tickets", "--from", "null", "--to", "minilm")


def hits(docmill: Docmill, *options: Any) -> list[dict[str, Any]]:
    said = docmill("search", "tickets", "login data are lost", "--no-passages", "--json", *options)
    found: list[dict[str, Any]] = json.loads(said.stdout)["hits"]
    return found


def test_search_and_runs_of_pipelines_change_to_the_new_model_and_back(
    embedded: Docmill, write_corpus: WriteCorpus
) -> None:
    write_corpus(TEXTS)
    (embedded.folder / "nightly.toml").write_text(PIPELINE)
    embedded("pipeline", "add", "nightly.toml")
    embedded("pipeline", "run", "nightly.toml")
    by_null = hits(embedded)

    cost = embedded.json(*TO_MINILM, "--dry-run")
    assert (cost["documents"], cost["done_already"], cost["to"]["model"]) == (3, 0, "minilm")
    assert cost["tokens_to_do"] > 0
    assert cost["seconds"] > 0
    asked = embedded(*TO_MINILM, code=2).stderr
    assert "device-seconds on cpu" in asked
    assert "Nothing was changed: --yes says that it is meant." in asked
    assert embedded.json("migrate", "tickets", "--status") == []

    done = embedded.json(*TO_MINILM, "--yes")
    assert (done["state"], done["answers"], done["documents"], done["lost"]) == ("switched", "minilm", 3, 0)
    assert hits(embedded)[0]["id"] == "t1"
    assert hits(embedded) != by_null
    job = embedded.json("status", done["job"])
    assert job["priority"] < 0
    assert job["migration"] == "the backfill from null to minilm: switched"
    assert "embed (migration)" in embedded("jobs").stdout
    assert "from null to minilm: switched" in embedded("status", 1).stdout

    write_corpus([*TEXTS, {"id": "t4", "text": "My login does not work any more."}])
    said = embedded("pipeline", "run", "nightly.toml").stderr
    assert "Step meaning: the corpus was migrated; minilm replaces null." in said
    assert {hit["id"] for hit in hits(embedded)} == {"t1", "t2", "t3", "t4"}

    assert len(embedded.results(3)[0]["vector"]) == 384
    assert embedded("results", "tickets").stdout == embedded("results", 3).stdout
    again = embedded(*TO_MINILM).stderr
    assert "was switched to minilm before" in again
    assert "1 of 4 documents have no result of null" in embedded("migrate", "tickets", "--back", code=2).stderr
    embedded("migrate", "tickets", "--back", "--yes")
    assert hits(embedded) == by_null
    assert "nothing to take back" in embedded("migrate", "tickets", "--back", code=2).stderr


def test_what_cannot_be_migrated_is_refused_with_what_to_do(embedded: Docmill, write_corpus: WriteCorpus) -> None:
    write_corpus(TEXTS)
    run = ("run", "corpus.jsonl", "--task", "embed", "--corpus", "tickets")
    embedded(*run, "--model", "null")

    def refused(*arguments: Any) -> str:
        return embedded("migrate", *arguments, code=2).stderr

    assert "there is no corpus films" in refused("films", "--from", "null", "--to", "minilm", "--yes")
    unknown = refused("tickets", "--from", "opus", "--to", "minilm", "--yes")
    assert "has a step with the model opus; models of this corpus: null" in unknown
    assert "there is nothing to migrate" in refused("tickets", "--from", "null", "--to", "null", "--yes")
    assert "nowhere" in refused("tickets", "--from", "null", "--to", "./nowhere", "--yes")
    assert "--cancel and --back do not go together" in refused("tickets", "--back", "--cancel")
    assert "--status takes no --from" in refused("tickets", "--from", "null", "--status")
    assert "give --from MODEL and --to MODEL" in refused("tickets")
    assert "No migration of tickets is under way" in refused("tickets", "--cancel")
    assert "--max-failures" in embedded("migrate", "--help").stdout

    embedded(*run, "--model", "null", "--windows", "all")
    several = refused("tickets", "--from", "null", "--to", "minilm", "--yes")
    assert "several sorts of results of null; choose by --job, --step or both" in several
    assert "job 1, step embed" in several
    done = embedded.json("migrate", "tickets", "--from", "null", "--to", "null@9000", "--job", 1, "--yes")
    assert done["from"]["params"] == embedded.json("status", 1)["spec"]["params"]

    said = embedded(*run, "--model", "null").stderr
    assert "This job computes null; `docmill migrate tickets --from null --to null@9000`" in said
    embedded("run", "corpus.jsonl", "--task", "embed", "--corpus", "trial", "--model", "null")
    embedded("run", "corpus.jsonl", "--task", "embed", "--corpus", "trial", "--model", "null@5000")
    embedded("migrate", "tickets", "--from", "null@9000", "--to", "null@5000", "--yes")
    used = embedded("search", "tickets", "login", "--no-passages").stderr
    assert "embed with null@5000" in used, "results of another corpus need a job of this one"
    embedded("corpus", "rm", "trial", "--yes")
    dropped = embedded.json("gc", "--migrated", "--yes")
    assert dropped["outcomes"] == 6
    assert embedded.json("migrate", "tickets", "--status")[0]["state"] == "dropped"
