"""Answers that a killed process left behind are used again, for their own texts only."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docmill.storage.core.specs import Reason, Spec
from docmill.tasks.backends.remote.journal import KEPT_S, Journal, empty
from docmill.tasks.outputs import Failure, Generated, Likelihood, Output, Several, Vector
from docmill.tasks.windows.windows import Encoded
from tests.tasks.backends.remote.api_server import ApiServer, ServerAnswer, error, text_of
from tests.tasks.backends.remote.conftest import Serve
from tests.tasks.backends.remote.test_served_models import GENERATE, engine_on, spec_of, submit
from tests.tasks.conftest import outcomes_of
from tests.worker.harness import until

TEXTS = [f"document number {number}." for number in range(40)]
WINDOWS = [Encoded(3, f"window {number}") for number in range(5)]
OUTPUTS: list[Output] = [
    Generated("a text\0 with \U0001f600", 3, truncated=True, likelihood=Likelihood(-1.5, None, 3), read_tokens=7),
    Several((Generated("one", 1, read_tokens=4), Generated("two", 1))),
    Failure("The model refuses to write about this text.", Reason.DOCUMENT),
    Generated("", 0),
]


def are_equal(first: Output | None, second: Output | None) -> bool:
    if isinstance(first, Vector) and isinstance(second, Vector):
        return first.values.tobytes() == second.values.tobytes() and first.read_tokens == second.read_tokens
    return first == second


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "answers.db"


def test_every_kind_of_output_is_kept_until_it_is_forgotten(file: Path) -> None:
    vector = Vector(np.random.default_rng(1).normal(size=384).astype(np.float32), 5)
    outputs = [*OUTPUTS, vector]
    journal = Journal(file, GENERATE)
    journal.keep(WINDOWS, outputs)
    with closing(Journal(file, GENERATE)) as reopened:  # of another process
        assert all(map(are_equal, reopened.find(WINDOWS), outputs))
        reopened.forget(WINDOWS[:2])
    assert all(map(are_equal, journal.find(WINDOWS), [None, None, *outputs[2:]]))
    assert file.stat().st_mode & 0o077 == 0


def test_a_text_with_half_a_character_is_not_kept_but_is_still_an_output(file: Path) -> None:
    with closing(Journal(file, GENERATE)) as journal:
        keep = journal.keep_when_read(WINDOWS[:2], lambda answer: answer)
        outputs = [Generated("cut at \ud83d", 3), OUTPUTS[0]]
        assert keep(outputs) == outputs
        assert journal.find(WINDOWS[:2]) == [None, OUTPUTS[0]]


def test_an_answer_counts_only_for_its_text_and_its_spec(file: Path) -> None:
    journal = Journal(file, GENERATE)
    journal.keep(WINDOWS[:1], OUTPUTS[:1])
    for spec in (spec_of("generate", prompt="{text}!"), spec_of("generate", model="openai:other", prompt="{text}")):
        assert Journal(file, spec).find(WINDOWS[:1]) == [None]
    assert journal.find([Encoded(3, "window 0 ")]) == [None]


def test_a_damaged_answer_is_ignored_and_a_damaged_file_replaced(file: Path) -> None:
    journal = Journal(file, GENERATE)
    journal.keep(WINDOWS[:1], OUTPUTS[:1])
    with closing(sqlite3.connect(file)) as connection, connection:
        (raw,) = connection.execute("SELECT answer FROM answer").fetchone()
        connection.execute("UPDATE answer SET answer = ?", (raw[:-1] + b" ",))
    assert journal.find(WINDOWS[:1]) == [None]
    journal.close()
    file.write_bytes(b"no database at all" * 1_000)
    with closing(Journal(file, GENERATE)) as journal:
        journal.keep(WINDOWS[:1], OUTPUTS[:1])
        assert journal.find(WINDOWS[:1]) == OUTPUTS[:1]


def test_a_journal_that_cannot_be_written_raises_no_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "nowhere" / "answers.db", GENERATE)
    journal.keep(WINDOWS[:1], OUTPUTS[:1])
    assert journal.find(WINDOWS[:1]) == [None]
    journal.forget(WINDOWS[:1])


def test_answers_that_a_killed_process_left_are_deleted_after_a_week(file: Path) -> None:
    with closing(Journal(file, GENERATE, clock=lambda: 1000.0)) as journal:
        journal.keep(WINDOWS[:1], OUTPUTS[:1])
    with closing(Journal(file, GENERATE, clock=lambda: 1000.0 + KEPT_S)) as journal:
        assert journal.find(WINDOWS[:1]) == OUTPUTS[:1]
    with closing(Journal(file, GENERATE, clock=lambda: 1001.0 + KEPT_S)) as journal:
        assert journal.find(WINDOWS[:1]) == [None]


def test_a_forgotten_answer_leaves_no_byte_in_the_file(file: Path) -> None:
    answer = Generated("the answer of a server about a person", 3)
    with closing(Journal(file, GENERATE)) as journal:
        journal.keep(WINDOWS, [answer] * len(WINDOWS))
        journal.forget(WINDOWS)
    assert answer.text.encode() not in file.read_bytes()


def test_a_journal_can_be_emptied_beside_a_process_unless_the_process_writes(file: Path) -> None:
    assert empty(file), "there is no file"
    with closing(Journal(file, GENERATE)) as journal, closing(sqlite3.connect(file)) as connection:
        journal.keep(WINDOWS[:1], OUTPUTS[:1])
        connection.execute("BEGIN IMMEDIATE")
        assert not empty(file)
        connection.execute("COMMIT")
        assert empty(file)
        assert journal.find(WINDOWS[:1]) == [None]
        journal.keep(WINDOWS[:1], OUTPUTS[:1])
        assert journal.find(WINDOWS[:1]) == OUTPUTS[:1]


def count_answers(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("SELECT count(*) FROM answer").fetchone()[0])


@pytest.fixture
def api(serve: Serve) -> ApiServer:
    return serve()


@pytest.mark.parametrize("spec", [GENERATE, spec_of("embed")], ids=["chat", "embeddings"])
def test_answers_from_before_the_process_died_are_not_requested_again(api: ApiServer, file: Path, spec: Spec) -> None:
    with engine_on(api, file) as engine:
        answered = [(outcome.text, outcome.tokens_in) for outcome in outcomes_of(engine, spec, TEXTS)]
    n_requests = len(api.requests)
    more = [*TEXTS, "one more text"]
    with engine_on(api, file) as engine:
        if "input" in api.requests[0]:
            n_requests += 1  # opening embeds a word
        ticket = submit(engine, spec, more)
        outcomes = ticket.finished()
        assert [(outcome.text, outcome.tokens_in) for outcome in outcomes[:-1]] == answered
        assert len(api.requests) == n_requests + 1
        engine.forget_stored(spec, ticket, outcomes[1:])
    n_requests = len(api.requests)
    with engine_on(api, file) as engine:
        outcomes_of(engine, spec, TEXTS[:1])
        assert not any(TEXTS[0] in str(request) for request in api.requests[n_requests:]), "its outcome is not stored"
        outcomes_of(engine, spec, TEXTS[1:2])
        assert any(TEXTS[1] in str(request) for request in api.requests[n_requests:]), "it was forgotten"


def test_the_windows_of_an_unfinished_document_are_kept(api: ApiServer, file: Path) -> None:
    spec = spec_of("translate", source_lang="en", target_lang="fr", window_tokens=120, max_new_tokens=8)
    long = " ".join(f"word{number}" for number in range(200))
    blocked, last = threading.Event(), "word199"

    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        if last in text_of(request):
            blocked.wait(60)
        return None

    api.script = script
    with engine_on(api, file) as engine:
        ticket = engine.submit(spec, [(0, long)])
        until(lambda: ticket.computed > 0.5, "half of the windows")
        until(lambda: count_answers(file) == len(api.requests) - 1, "all windows but the last")
        sent = len(api.requests)
        assert not ticket.finished()
        blocked.set()
        engine.drain()
    with engine_on(api, file) as engine:
        (outcome,) = outcomes_of(engine, spec, [long])
    assert sent > 2
    assert len(api.requests) <= sent + 1, "only the last window may be sent again"
    assert outcome.text is not None
    assert last.upper() in outcome.text


def test_an_idempotency_key_is_the_same_in_any_process_and_changes_after_an_error(api: ApiServer, file: Path) -> None:
    failing = TEXTS[0]
    api.script = lambda request, times: error(500) if text_of(request) == failing and times == 1 else None
    with engine_on(api, file) as engine:
        outcomes_of(engine, GENERATE, TEXTS[:3])
    first = api.idempotency_keys
    assert len({*first}) == 4
    api.idempotency_keys = []
    file.unlink()
    with engine_on(api, file) as engine:
        outcomes_of(engine, GENERATE, TEXTS[:3])
    assert None not in first
    assert len(set(first) & set(api.idempotency_keys)) == 3
    api.idempotency_keys = []
    with engine_on(api, None) as engine:
        outcomes_of(engine, GENERATE, TEXTS[:1])
    assert api.idempotency_keys == [None], "a request without a journal has no key"


def test_a_request_changes_its_key_if_the_server_repeats_errors_by_key(file: Path) -> None:
    def script(request: dict[str, Any], times: int) -> ServerAnswer | None:
        return {1: error(500), 2: ServerAnswer(200, b"{half"), 3: error(429, Retry_After="0")}.get(times)

    with ApiServer(script, honours=True).running() as api, engine_on(api, file) as engine:
        (outcome,) = outcomes_of(engine, GENERATE, TEXTS[:1])
        assert outcome.text == TEXTS[0].upper()
