"""A removed document leaves no byte of its text, outputs and name in the home, whatever computed its corpus."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from docmill.worker import inventory
from docmill.worker.settings import Settings
from docmill.worker.stores import store_of
from tests.tasks.backends.remote.api_server import MODEL, ApiServer, ServerAnswer
from tests.worker.harness import Docmill, kill_machine, until
from tests.worker.test_served import count_answers

NAME = "kanarienvogel-4711"
TEXT = "La lettre de Madame Kanarienvogel, qui habite au bout de la longue rue près du lac."
OTHERS = [{"id": f"other-{n}", "text": f"The invoice {n} is wrong, and nobody answers {n}."} for n in range(40)]
PIPELINE = """
name = "nightly"
[corpus]
source = "corpus.jsonl"
[[step]]
name = "echo"
task = "translate"
model = "null"
[[step]]
name = "asked"
input = "echo"
task = "generate"
prompt = "Sort this: {text}"
model = "null"
"""
SERVED = ("--prompt", "{text}", "--model", f"openai:{MODEL}")
ECHOED = ("--model", "null")


@pytest.fixture
def docmill(tmp_path: Path, server: ApiServer, write_corpus: Callable[..., Path]) -> Docmill:
    write_corpus([*OTHERS[:20], {"id": NAME, "text": TEXT, "person": NAME}, *OTHERS[20:]])
    (tmp_path / "nightly.toml").write_text(PIPELINE)
    return Docmill(tmp_path, {"DOCMILL_ENDPOINT": server.endpoint, "OPENAI_API_KEY": "k", "DOCMILL_LEASE_S": "3"})


def run(docmill: Docmill, task: str, *options: str) -> None:
    docmill("run", task, "corpus.jsonl", "--corpus", "letters", *options)


def run_on_a_server_until_killed(docmill: Docmill, server: ApiServer) -> None:
    """Leave answers in the journal whose results the store has refused."""
    was_asked, refuses, blocked, n_begun = (
        threading.Event(),
        threading.Event(),
        threading.Event(),
        iter(range(1_000_000)),
    )

    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        was_asked.set()
        refuses.wait()
        if next(n_begun) >= 30:
            blocked.wait()
        return None

    server.script = script
    process = docmill.start("run", "generate", "corpus.jsonl", "--corpus", "letters", *SERVED)
    until(was_asked.is_set, "a text is sent")
    docmill.sql("CREATE TRIGGER refuse BEFORE INSERT ON outcome BEGIN SELECT RAISE(ABORT, 'refused'); END")
    refuses.set()
    until(lambda: count_answers(docmill) >= 25, "answers are kept")
    kill_machine(process)
    blocked.set()
    docmill.sql("DROP TRIGGER refuse")
    docmill("cancel", 1)


def run_and_look_for_near_duplicates(docmill: Docmill, _: ApiServer) -> None:
    run(docmill, "translate", *ECHOED, "--leave-out", "near-duplicates")
    docmill("dedup", "find", "letters")


def run_and_search(docmill: Docmill, _: ApiServer) -> None:
    run(docmill, "embed", "--model", "minilm")
    assert docmill.json("search", "letters", TEXT)["hits"][0]["id"] == NAME


def run_with_an_escalation(docmill: Docmill, _: ApiServer) -> None:
    options = ("--from", "fr", "--to", "en", "--max-new-tokens", "4", "--beams", "1")
    run(docmill, "translate", *options, "--escalate-beams", "2")  # what is cut off is computed again
    assert docmill.json("status", 1)["escalated"]["translate"]["texts"] > 0


def run_a_pipeline(docmill: Docmill, _: ApiServer) -> None:
    docmill("pipeline", "run", "nightly.toml")
    assert docmill.json("status", 1)["steps"][1]["done"] == 41


def bytes_of_home(docmill: Docmill) -> dict[str, bytes]:
    """Return the bytes of each file in the home, by its path there. Caches may be links to those of all tests."""
    home = docmill.folder / "home"
    walked = os.walk(home, followlinks=True)
    held: dict[str, bytes] = {}
    for file in [file for folder, _, names in walked for name in names if (file := Path(folder, name)).is_file()]:
        with suppress(FileNotFoundError):  # another test converts a model meanwhile
            held[str(file.relative_to(home))] = file.read_bytes()
    return held


def holding(docmill: Docmill, words: set[str]) -> set[str]:
    """Return the files of the home that hold any of these words."""
    return {name for name, raw in bytes_of_home(docmill).items() if any(word.encode() in raw for word in words)}


QUICK = (run_on_a_server_until_killed, run_and_look_for_near_duplicates, run_a_pipeline)
SLOW = (run_and_search, run_with_an_escalation)


@pytest.mark.slow
@pytest.mark.parametrize("way", [*QUICK, *(pytest.param(way, marks=pytest.mark.long) for way in SLOW)])
def test_no_byte_of_a_removed_document_stays_in_the_home(
    docmill: Docmill, server: ApiServer, way: Callable[[Docmill, ApiServer], None]
) -> None:
    way(docmill, server)
    [corpus] = docmill.json("corpus", "list")
    rows = [] if way is run_on_a_server_until_killed else docmill.results(1)
    outputs = {row["text"] for row in rows if row["id"] == NAME and row.get("text")}
    words = {NAME, TEXT, TEXT.upper(), "Kanarienvogel", *outputs}
    assert holding(docmill, words)
    docmill("corpus", "rm", corpus["name"], "--document", NAME, "--yes")
    assert holding(docmill, words) == set()
    docmill("gc", "texts")
    assert holding(docmill, words) == set()
    letter = docmill.folder / "letter.txt"
    letter.write_text(TEXT)
    assert "is nowhere" in docmill("corpus", "trace", letter).stdout


def test_every_file_of_a_home_is_in_the_inventory(docmill: Docmill, server: ApiServer) -> None:
    run_on_a_server_until_killed(docmill, server)
    settings = Settings(home=docmill.folder / "home")
    with closing(store_of(settings)) as database:
        listed = {file.name for file in inventory.files(settings, database)}
    at_home = {name for name in bytes_of_home(docmill) if not name.startswith("cache/")}
    assert {"docmill.db", "answers.db", "answers.db-wal"} <= listed
    assert {name for name in at_home - listed if not name.endswith("-shm")} == set()


def test_documents_that_keep_a_removed_text_are_named_with_the_command_that_removes_it(
    docmill: Docmill, write_corpus: Callable[..., Path]
) -> None:
    run(docmill, "translate", *ECHOED)
    write_corpus([{"id": "d 3", "text": TEXT}, {"id": "x", "text": "Another text."}])
    docmill("run", "translate", "corpus.jsonl", "--corpus", "copies", *ECHOED)
    removed = docmill("corpus", "rm", "letters", "--document", NAME, "--yes")
    assert "The same text stays in the corpus copies, in d 3." in removed.stderr
    assert "docmill corpus rm copies --document 'd 3'" in removed.stderr
    removed_again = docmill("corpus", "rm", "copies", "--document", "d 3", "--yes", "--json")
    assert json.loads(removed_again.stdout)["same_text"] == []
    assert holding(docmill, {"Kanarienvogel"}) == set()
