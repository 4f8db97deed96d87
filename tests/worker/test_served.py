"""A served model by docmill's commands: an answer is paid once, and the key is told to nobody but its server."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
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
def server() -> Iterator[ApiServer]:
    with ApiServer().running() as server:
        yield server


@pytest.fixture
def docmill(tmp_path: Path, server: ApiServer) -> Docmill:
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(TEXTS))
    )
    settings = {"DOCMILL_ENDPOINT": server.endpoint, "OPENAI_API_KEY": KEY, "DOCMILL_LOG_LEVEL": "debug"}
    settings |= {"DOCMILL_LEASE_S": "3"}
    found = Docmill(tmp_path, settings)
    found.loads_models = False
    return found


COMMAND = ("run", "generate", "corpus.jsonl", "--prompt", "{text}", "--model", f"openai:{MODEL}")


def stored(docmill: Docmill) -> int:
    """Return the number of results in the store, which may not be there yet."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{docmill.folder}/home/docmill.db?mode=ro", uri=True)) as store,
    ):
        return int(store.execute("SELECT count(*) FROM outcome").fetchone()[0])
    return 0


def journaled(docmill: Docmill) -> int:
    """Return the number of answers that are kept until their results are stored."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{docmill.folder}/home/answers.db?mode=ro", uri=True)) as answers,
    ):
        return int(answers.execute("SELECT count(*) FROM answer").fetchone()[0])
    return 0


@pytest.mark.parametrize("honours", [False, pytest.param(True, marks=pytest.mark.long)])
def test_no_answer_is_paid_twice_through_kill_9(docmill: Docmill, server: ApiServer, honours: bool) -> None:
    server.honours = honours
    blocked, begun = threading.Event(), iter(range(1_000_000))

    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        if next(begun) >= ANSWERED:
            blocked.wait()
        return None

    server.script = script
    process = docmill.start(*COMMAND)
    until(lambda: ANSWERED in {stored(docmill), journaled(docmill)}, "what was answered is kept")
    until(lambda: server.at_a_time > 0, "others are under way")
    kill_machine(process)
    in_flight = server.at_a_time
    server.script = lambda request, times: None
    if honours:
        again = docmill.start(*COMMAND)
        until(lambda: server.repeated, "a request that is still computed is sent again")
        in_flight = 0
        blocked.set()
        assert again.wait(60) == 0
    else:
        blocked.set()
        docmill(*COMMAND)
    assert journaled(docmill) == 0, "no answer stays where its result is stored"
    asked = [server.of(text) for text in TEXTS]
    assert len(server.requests) == len(TEXTS) + in_flight, "only what was in flight is computed again"
    assert sorted(asked) == [1] * (len(TEXTS) - in_flight) + [2] * in_flight
    assert {row["text"] for row in docmill.results(1)} == {text.upper() for text in TEXTS}
    docmill(*COMMAND)
    assert len(server.requests) == len(TEXTS) + in_flight, "a second run asks for nothing"
    said = docmill("explain", "1", "0").stdout + docmill.log("run")
    assert "has the tokenizer" in " ".join(said.split())
    assert KEY not in said
    assert server.keys == {f"Bearer {KEY}"}
    for file in (docmill.folder / "home").rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_a_key_that_the_server_refuses_stops_the_run_with_the_variable_to_set(
    docmill: Docmill, server: ApiServer
) -> None:
    server.models = 401
    told = docmill(*COMMAND, code=2).stderr
    assert "DOCMILL_OPENAI_API_KEY" in " ".join(told.split())
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
    with ApiServer().running() as moved:
        docmill(*COMMAND, "--endpoint", moved.endpoint)
        assert not moved.requests


def test_a_tokenizer_counts_all_texts_before_any_is_paid_and_is_part_of_the_spec(
    docmill: Docmill, server: ApiServer
) -> None:
    folder = copy_tokenizer(docmill.folder / "tokenizer")
    by_tokenizer = counter(folder, "tokenizer")
    tokens = sum(by_tokenizer.of_messages([{"role": "user", "content": text}]) for text in TEXTS)
    named = (*COMMAND, "--tokenizer", "tokenizer")
    found = docmill.json(*named, "--dry-run", "--price", "1,0")
    assert found["tokens_to_do"] == tokens
    assert found["cost"]["amount"] == pytest.approx(tokens * 1e-6)
    assert found["sampled"] < len(server.requests) < len(TEXTS)
    docmill(*named)
    assert {row["text"] for row in docmill.results(1)} == {text.upper() for text in TEXTS}
    spec = docmill.json("status", "1")["spec"]
    assert spec["params"]["tokenizer"] == str(folder)
    assert docmill.json(*named, "--dry-run")["done_already"] == len(TEXTS)
    assert docmill.json(*COMMAND, "--dry-run")["done_already"] == 0
    shown = " ".join(docmill("explain", "1", "0").stdout.split())
    assert "tokenizer_revision: sha256:" in shown
    shutil.rmtree(folder)
    folder.mkdir()
    assert "has no tokenizer" in " ".join(docmill(*named, code=2).stderr.split())
    minilm = ("run", "embed", "corpus.jsonl", "--model", "minilm", "--tokenizer", "tokenizer")
    assert "minilm has its own" in " ".join(docmill(*minilm, code=2).stderr.split())


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
    shown = docmill("pipeline", "history", "nightly").stdout
    assert "cost" in shown
    assert f"{len(TEXTS) * 37e-6:.4g}" in shown
