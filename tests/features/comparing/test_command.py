"""`docmill compare`: two jobs over a corpus, side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docmill.features.comparing.command import mark_differences
from tests.worker.harness import Docmill

WriteCorpus = Callable[..., Path]


def test_words_that_one_text_lacks_are_marked_on_the_side_that_has_them() -> None:
    left, right = mark_differences("the old cat sat down", "the young cat sat")
    assert left.plain == "the [-old-] cat sat [-down-]"
    assert right.plain == "the {+young+} cat sat"


def test_jobs_are_compared_over_the_documents_that_both_have(embedded: Docmill, write_corpus: WriteCorpus) -> None:
    embedded.environment["COLUMNS"] = "80"
    texts = [{"id": f"d{n}", "text": f"Text number {n} has several words."} for n in range(12)]

    def run(task: str, *options: str) -> None:
        embedded("run", task, "corpus.jsonl", "--corpus", "notes", *options)

    write_corpus(texts[:9])
    run("translate", "--from", "fr", "--to", "en", "--model", "null")
    write_corpus(texts)
    run("translate", "--from", "fr", "--to", "en", "--model", "null@90000")
    run("embed", "--model", "null")
    run("embed", "--model", "null@90000")

    comparison = embedded.json("compare", "notes", "--job", 1, "--job", 2)
    assert (comparison["documents"], comparison["both"], comparison["only_a"], comparison["only_b"]) == (12, 9, 0, 3)
    assert comparison["agreement"] == {"identical": 1.0, "word_overlap": 1.0}
    assert (comparison["a"]["job"], comparison["b"]["spec"]["model"], comparison["samples"]) == (1, "null@90000", [])
    shown = embedded("compare", "notes", "--job", 1, "--job", 2).stdout
    assert "9 of 12 documents have both results; only A has 0, only B 3" in shown
    assert max(map(len, shown.splitlines())) <= 80

    vectors = embedded.json("compare", "notes", "--job", 3, "--job", 4, "--samples", 2)
    assert vectors["agreement"] == {"identical": 1.0, "recall_at_10": 1.0}
    assert [sample["recall"] for sample in vectors["samples"]] == [1.0, 1.0]

    def refused(*arguments: object) -> str:
        return embedded("compare", *arguments, code=2).stderr

    assert "job 1 gives texts, and job 3 vectors" in refused("notes", "--job", 1, "--job", 3)
    assert "give --job twice" in refused("notes", "--job", 1)
    assert "there is no job 9" in refused("notes", "--job", 1, "--job", 9)
    assert "there is no corpus films" in refused("films", "--job", 1, "--job", 2)
    assert "there is no step line" in refused("notes", "--job", 1, "--job", 2, "--step", "line")
    embedded("enqueue", "embed", "corpus.jsonl", "--corpus", "notes", "--model", "null@5000")
    assert "has results of both jobs" in refused("notes", "--job", 4, "--job", 5, "-q"), "even if it is quiet"
