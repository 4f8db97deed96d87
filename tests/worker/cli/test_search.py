"""`docmill search`: real models, and what is printed, answered and refused."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.worker.conftest import Call
from tests.worker.harness import DEADLINE_S, DOCMILL, Docmill

WriteCorpus = Callable[..., Path]


def _lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_person_gets_a_line_for_each_document_and_a_machine_one_for_each_query(
    embedded: Docmill, write_corpus: WriteCorpus
) -> None:
    rows = [
        {"id": "a\x1b[31m", "text": "A shell\nfor the\x07 command line", "lang": "en"},
        {"text": "Fonts for Tamil"},
    ]
    write_corpus([*rows, {"id": "c", "text": "A shell\nfor the\x07 command line"}])
    embedded("run", "embed", "corpus.jsonl")
    completed = embedded("search", "corpus.jsonl", "a shell", "--top", 2)
    lines = completed.stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["score", "document", "text"],
        ["1", lines[1].split()[1], "a\ufffd[31m", "A", "shell", "for", "the\ufffd", "command", "line"],
        ["2", lines[1].split()[1], "c", "A", "shell", "for", "the\ufffd", "command", "line"],
    ]
    assert float(lines[1].split()[1]) > 0.5
    [answer] = _lines(embedded("search", "corpus.jsonl", "a shell", "--json").stdout)
    assert (answer["id"], answer["query"]) == (None, "a shell")
    assert [hit["id"] for hit in answer["hits"]] == ["a\x1b[31m", "c", "corpus.jsonl:2"]
    first = answer["hits"][0]
    text = rows[0]["text"]
    expected = {"id": rows[0]["id"], "text": text, "meta": {"lang": "en"}, "passage": text}
    assert first == {**expected, "score": first["score"]}
    assert answer["hits"][1]["score"] == first["score"]


def test_queries_are_answered_in_their_order_and_bad_ones_are_reported(
    embedded: Docmill, write_corpus: WriteCorpus
) -> None:
    write_corpus([{"id": "a", "text": "one"}, {"id": "b", "text": "two"}])
    embedded("run", "embed", "corpus.jsonl", "--model", "null")
    (embedded.folder / "q.txt").write_text("two\n\none\n")
    answers = _lines(embedded("search", "corpus.jsonl", "--queries", "q.txt", "--json", "--top", 1).stdout)
    assert [(answer["id"], answer["query"], answer["hits"][0]["id"]) for answer in answers] == [
        ("q.txt:1", "two", "b"),
        ("q.txt:3", "one", "a"),
    ]
    lines = embedded("search", "corpus.jsonl", "--queries", "q.txt", "--top", 1).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["two", "score", "1", "one", "score", "1"]
    queries = b'{"id": 1, "text": "two"}\nbad\n{"text": " "}\n'
    completed = embedded("search", "corpus.jsonl", "--queries", "-", "--json", code=1, stdin=queries)
    assert [answer["id"] for answer in _lines(completed.stdout)] == ["1"]
    assert "-:2: not JSON" in completed.stderr
    assert "-:3: The text is blank." in completed.stderr


def test_a_corpus_is_found_by_its_name_before_a_folder_that_is_called_the_same(
    embedded: Docmill, write_corpus: WriteCorpus
) -> None:
    folder = embedded.folder / "tickets"
    folder.mkdir()
    (folder / "a.txt").write_text("of the folder")
    embedded("run", "embed", "tickets", "--model", "null")
    write_corpus([{"id": "a", "text": "of the corpus"}])
    embedded("run", "embed", "corpus.jsonl", "--model", "null", "--corpus", "tickets")
    for called, text in (("tickets", "of the corpus"), (folder, "of the folder")):
        [answer] = _lines(embedded("search", called, "x", "--json").stdout)
        assert [hit["text"] for hit in answer["hits"]] == [text]


def test_in_a_terminal_texts_are_typed_one_after_another(embedded: Docmill, write_corpus: WriteCorpus) -> None:
    write_corpus([{"id": "a", "text": "one"}, {"id": "b", "text": "two"}])
    embedded("run", "embed", "corpus.jsonl", "--model", "null")
    ours, its = pty.openpty()
    os.write(ours, b"two\none\n\n")
    completed = subprocess.run(
        [DOCMILL, "search", "corpus.jsonl", "--top", "1"],
        cwd=embedded.folder,
        env=embedded.environment,
        stdin=its,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    os.close(its)
    os.close(ours)
    assert completed.returncode == 0, completed.stderr
    assert "an empty line ends the search" in completed.stderr
    hits = [line.split() for line in completed.stdout.splitlines() if line.split()[:1] == ["1"]]
    assert [(line[2], line[3]) for line in hits] == [("b", "two"), ("a", "one")]


def test_a_search_that_cannot_be_done_is_refused_with_the_reason(call: Call) -> None:
    def refused(*arguments: object) -> str:
        return call("search", "corpus.jsonl", *arguments, code=2).err

    assert "there is no corpus corpus.jsonl" in refused("x")
    for arguments in ((), ("x", "--queries", "q.txt")):
        assert "give a TEXT, or a file of them" in refused(*arguments)
    assert "it is empty" in refused(" ")
    assert "q.txt: no such file" in refused("--queries", "q.txt")
