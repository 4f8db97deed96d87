"""Commands with a served model: an answer is paid once, and only its server gets the key."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from docmill.tasks.backends.remote.requests import counter
from tests.tasks.backends.remote.api_server import MODEL, ApiServer, ServerAnswer
from tests.tasks.specs.test_pinning import copy_tokenizer
from tests.worker.harness import Docmill, kill_machine, until

KEY = "sk-that-nobody-may-see"
TEXTS = [f"unique text <{number}>" for number in range(60)]
ANSWERED = 25


@pytest.fixture
def docmill(tmp_path: Path, server: ApiServer, write_corpus: Callable[..., Path]) -> Docmill:
    write_corpus({"id": number, "text": text} for number, text in enumerate(TEXTS))
    settings = {"DOCMILL_ENDPOINT": server.endpoint, "OPENAI_API_KEY": KEY}
    docmill = Docmill(tmp_path, settings | {"DOCMILL_LOG_LEVEL": "debug", "DOCMILL_LEASE_S": "3"})
    docmill.loads_models = False
    return docmill


COMMAND = ("run", "generate", "corpus.jsonl", "--prompt", "{text}", "--model", f"openai:{MODEL}")


def count_rows(file: Path, table: str) -> int:
    """Return the number of rows of a table; 0 while the SQLite file or the table is missing."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
        return int(store.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    return 0


def count_results(docmill: Docmill) -> int:
    return count_rows(docmill.folder / "home" / "docmill.db", "outcome")


def count_answers(docmill: Docmill) -> int:
    """Return the number of answers in the journal, which keeps them until their results are stored."""
    return count_rows(docmill.folder / "home" / "answers.db", "answer")


@pytest.mark.parametrize("honours", [False, pytest.param(True, marks=pytest.mark.long)])
def test_no_answer_is_paid_twice_through_kill_9(docmill: Docmill, server: ApiServer, honours: bool) -> None:
    server.honours = honours
    blocked, request_numbers = threading.Event(), iter(range(1_000_000))

    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        if next(request_numbers) >= ANSWERED:
            blocked.wait()
        return None

    server.script = script
    process = docmill.start(*COMMAND)
    until(lambda: ANSWERED in {count_results(docmill), count_answers(docmill)}, "what was answered is kept")
    until(lambda: server.at_a_time > 0, "others are under way")
    kill_machine(process)
    in_flight = server.at_a_time
    left = count_results(docmill) + count_answers(docmill) - ANSWERED  # stored, and the journal had no time to forget
    server.script = lambda request, times: None
    if honours:
        second_run = docmill.start(*COMMAND)
        until(lambda: server.repeated, "a request that is still computed is sent again")
        in_flight = 0
        blocked.set()
        assert second_run.wait(60) == 0
    else:
        blocked.set()
        docmill(*COMMAND)
    assert count_answers(docmill) == left, "no other answer stays where its result is stored"
    counts = [server.of(text) for text in TEXTS]
    assert len(server.requests) == len(TEXTS) + in_flight, "only what was in flight is computed again"
    assert sorted(counts) == [1] * (len(TEXTS) - in_flight) + [2] * in_flight
    assert {row["text"] for row in docmill.results(1)} == {text.upper() for text in TEXTS}
    docmill(*COMMAND)
    assert len(server.requests) == len(TEXTS) + in_flight, "a second run asks for nothing"
    output = docmill("explain", "1", "0").stdout + docmill.log("run")
    assert "has the tokenizer" in " ".join(output.split())
    assert KEY not in output
    assert server.keys == {f"Bearer {KEY}"}
    for file in (docmill.folder / "home").rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_a_key_that_the_server_refuses_stops_the_run_with_the_variable_to_set(
    docmill: Docmill, server: ApiServer
) -> None:
    server.models = 401
    stderr = docmill(*COMMAND, code=2).stderr
    assert "DOCMILL_OPENAI_API_KEY" in " ".join(stderr.split())
    nowhere = ("--endpoint", "http://127.0.0.1:9/v1")
    away = " ".join(docmill(*COMMAND, *nowhere, code=3).stderr.split())
    assert away.count("The same command continues it") == 1
    assert "does not answer" in docmill(*COMMAND, *nowhere, "--dry-run", code=3).stderr
    server.models = [{"id": MODEL}]
    # The server counts 7 tokens read, and 3 written, for each text.
    costs = {"amount": pytest.approx(len(TEXTS) * 37e-6), "currency": "", "unpriced": []}
    assert docmill.json(*COMMAND, "--dry-run", "--price", "1,10")["cost"] == costs
    docmill(*COMMAND)
    (docmill.folder / "prices.toml").write_text(f'currency = "EUR"\n["openai:{MODEL}"]\ninput = 1\noutput = 10\n')
    docmill.environment["DOCMILL_PRICES"] = "prices.toml"
    status = docmill.json("status", "1")
    assert status["done"] == len(TEXTS)
    assert status["cost"] == costs | {"currency": "EUR"}
    assert docmill.json("status", "1", "--wait")["cost"] == status["cost"]
    assert f"Its tokens cost {len(TEXTS) * 37e-6:.4g} EUR." in " ".join(
        docmill("status", "1", "--wait").stderr.split()
    )
    # Another URL of the same model is the same spec: nothing is paid again.
    with ApiServer().running() as new_server:
        docmill(*COMMAND, "--endpoint", new_server.endpoint)
        assert not new_server.requests


def test_a_tokenizer_counts_all_texts_before_any_is_paid_and_is_part_of_the_spec(
    docmill: Docmill, server: ApiServer
) -> None:
    folder = copy_tokenizer(docmill.folder / "tokenizer")
    by_tokenizer = counter(folder, "tokenizer")
    tokens = sum(by_tokenizer.of_messages([{"role": "user", "content": text}]) for text in TEXTS)
    command = (*COMMAND, "--tokenizer", "tokenizer")
    forecast = docmill.json(*command, "--dry-run", "--price", "1,0")
    assert forecast["tokens_to_do"] == tokens
    assert forecast["cost"]["amount"] == pytest.approx(tokens * 1e-6)
    assert forecast["sampled"] < len(server.requests) < len(TEXTS)
    docmill(*command)
    assert {row["text"] for row in docmill.results(1)} == {text.upper() for text in TEXTS}
    spec = docmill.json("status", "1")["spec"]
    assert spec["params"]["tokenizer"] == str(folder)
    assert docmill.json(*command, "--dry-run")["done_already"] == len(TEXTS)
    assert docmill.json(*COMMAND, "--dry-run")["done_already"] == 0
    explanation = " ".join(docmill("explain", "1", "0").stdout.split())
    assert "tokenizer_revision: sha256:" in explanation


def test_the_runs_of_a_pipeline_have_their_costs(docmill: Docmill) -> None:
    (docmill.folder / "prices.toml").write_text(f'["openai:{MODEL}"]\ninput = 1\noutput = 10\n')
    (docmill.folder / "nightly.toml").write_text(
        'name = "nightly"\n[corpus]\nsource = "corpus.jsonl"\n[[step]]\nname = "said"\ntask = "generate"\n'
        f'prompt = "{{text}}"\nmodel = "openai:{MODEL}"\n'
    )
    docmill("pipeline", "add", "nightly.toml")
    assert docmill.json("pipeline", "run", "nightly.toml")["cost"] is None
    assert [run["cost"] for run in docmill.json("pipeline", "history", "nightly")] == [None]
    docmill.environment["DOCMILL_PRICES"] = "prices.toml"
    docmill("pipeline", "run", "nightly.toml")
    runs = docmill.json("pipeline", "history", "nightly")
    assert [run["cost"]["amount"] for run in runs] == [0.0, pytest.approx(len(TEXTS) * 37e-6)], "paid once"
    assert docmill.json("pipeline", "list")[0]["last_run"] == runs[0]
    history = docmill("pipeline", "history", "nightly").stdout
    assert "cost" in history
    assert f"{len(TEXTS) * 37e-6:.4g}" in history
