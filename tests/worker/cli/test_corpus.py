"""`docmill corpus` and `docmill gc`: removed texts are in no table and no file of the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.harness import Docmill

Write = Callable[..., Path]
NO_VERSIONS = {"superseded": 0, "readings": 0}
SECRET = "The letter of Ms. Kanarienvogel, who lives at the end of the long road by the lake, and says so. "


@pytest.fixture
def stocked(embedded: Docmill, write_corpus: Write) -> Docmill:
    """A corpus `letters` of three documents, one of them long, translated by a model that echoes."""
    texts = [{"id": "a", "text": SECRET * 200}, {"id": "b", "text": "Short."}, {"id": "c", "text": "Another."}]
    options = ("--model", "null", "--corpus", "letters")
    embedded("run", "translate", write_corpus(texts), *options, "--out", "out.jsonl")
    return embedded


def test_corpora_are_listed_and_shown_with_their_counts(stocked: Docmill, write_corpus: Write) -> None:
    [listed] = stocked.json("corpus", "list")
    assert (listed["name"], listed["documents"], listed["ingests"][0]["new"]) == ("letters", 3, 3)
    assert [(spec["done"], spec["failed"], spec["pending"]) for spec in listed["specs"]] == [(3, 0, 0)]
    corpus = stocked.json("corpus", "show", "letters")
    assert [job["id"] for job in corpus["jobs"]] == [1]
    assert "letters" in stocked("corpus", "list").stdout
    assert "letters: 3 documents" in stocked("corpus", "show", "letters").stdout
    assert "no corpus poems" in stocked("corpus", "show", "poems", code=2).stderr
    source = write_corpus([{"id": "b", "text": "Short."}])
    for language in ("fr", "de"):
        stocked("run", "translate", source, "--model", "null", "--to", language, "--corpus", "letters")
    for command in (("list",), ("show", "letters")):
        stdout = stocked("corpus", *command).stdout
        assert "(target-lang fr)" in stdout
        assert "(target-lang de)" in stdout
    stocked("run", "translate", source, "--model", "null", "--dtype", "float32", "--corpus", "letters")
    listed_names = stocked("corpus", "list").stdout
    assert "(float32)" in listed_names, "specs that differ in precision alone are told apart"
    assert "(native)" in listed_names
    stocked("enqueue", "entities", source, "--model", "entities-ddtp")
    assert "entities entities-ddtp" in stocked("corpus", "list").stdout, "the adapter, and not its base model"


def test_a_persons_document_leaves_every_file_of_the_store(stocked: Docmill, tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text(SECRET * 200)
    blank = tmp_path / "blank.txt"
    blank.write_text("\n")
    assert "it has no text" in stocked("corpus", "trace", blank, code=2).stderr
    trace = stocked.json("corpus", "trace", letter, code=1)
    assert trace["documents"] == [["letters", "a"]]
    assert "document a of letters" in stocked("corpus", "trace", letter, code=1).stdout
    assert stocked.json("corpus", "rm", "letters", "--document", "a", "--yes")["documents"] == 1
    assert "is nowhere in the store" in stocked("corpus", "trace", letter).stdout
    for file in (stocked.folder / "home").glob("docmill.db*"):
        assert SECRET[:40].encode() not in file.read_bytes()
    assert {result["id"] for result in stocked.results(1)} == {"b", "c"}
    assert stocked.json("corpus", "rm", "letters", "--document", "a", "--yes", code=1)["missing"] == ["a"]


def test_nothing_is_removed_without_a_yes(stocked: Docmill) -> None:
    refused = stocked("corpus", "rm", "letters", code=2)
    assert "the corpus letters (3 documents)" in refused.stderr
    assert "--yes" in refused.stderr
    assert stocked.json("corpus", "list")[0]["documents"] == 3
    documents = ("--document", "nope", "--document", "a", "--document", "a")
    question = stocked("corpus", "rm", "letters", *documents, code=2)
    assert "This removes 1 of the 3 documents of the corpus letters" in " ".join(question.stderr.split())
    stocked("corpus", "rm", "letters", "--yes")
    assert stocked.json("corpus", "list") == []
    assert stocked.json("jobs") == []


def test_results_of_a_spec_are_dropped_and_computed_again(stocked: Docmill, write_corpus: Write) -> None:
    assert stocked.json("gc", "texts") == {"contents": 0, "outcomes": 0, **NO_VERSIONS, "vanished": {}}
    assert stocked.json("gc", "results", "--older-than", 1)["outcomes"] == 0
    assert "there is no such spec" in stocked("gc", "results", "--spec", "embed/none", code=2).stderr
    assert stocked.json("gc", "results", "--spec", "translate/null", "--yes")["outcomes"] == 3
    assert "run its source again to compute them anew" in stocked("results", 1, code=2).stderr
    source = write_corpus([{"id": "b", "text": "Short."}])
    stocked("run", "translate", source, "--model", "null", "--corpus", "letters", "--out", "out.jsonl")
    assert {result["id"] for result in stocked.results(2)} == {"a", "b", "c"}


def test_superseded_versions_go_after_a_yes_and_current_documents_keep_their_results(
    stocked: Docmill, write_corpus: Write
) -> None:
    changed = write_corpus([{"id": "b", "text": "Another text."}], "changed.jsonl")
    stocked("run", "translate", changed, "--model", "null", "--corpus", "letters")
    dry = stocked.json("gc", "versions", "--dry-run")
    assert (dry["superseded"], dry["dropped"], dry["unneeded"]) == (1, [], {"contents": 0, "outcomes": 0})
    for options in (["--dry-run"], []):
        stderr = stocked("gc", "versions", *options, code=0 if options else 2).stderr
        assert "1 superseded version of documents, 0 readings" in stderr
        assert "Then the results of jobs with these versions lack them." in stderr
    assert stocked.json("gc", "versions", "--older-than", 1)["superseded"] == 0
    stderr = stocked("gc", "versions", "--yes").stderr
    assert "Removed: 1 text, 1 result, 1 superseded version of documents, 0 readings." in stderr
    assert {result["id"] for result in stocked.results(1)} == {"a", "c"}
    assert {result["id"] for result in stocked.results(2)} == {"a", "b", "c"}
    for n, removed in ((1, 1), (2, 0)):
        status = stocked.json("status", n)
        assert (status["lost"], status["removed"]) == (0, removed)
    for command in ("status", "results"):
        completed = stocked(command, 1)
        text = completed.stdout + completed.stderr
        assert "1 of its documents was removed since, with results" in " ".join(text.split())
