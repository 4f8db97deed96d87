"""Batches from their file to their answers, computed by a worker of the test's own."""

from __future__ import annotations

import gzip
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import openai
import pytest
from openai.types import Batch, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from sqlalchemy import select, update

from docmill.features.batch_server import clerk, keys, stored_batches, stored_files
from docmill.features.batch_server.clerk import Clerk
from docmill.features.batch_server.file import BatchFile, Call
from docmill.features.batch_server.file import survey as real_survey
from docmill.features.batch_server.stored_batches import ApiBatch
from docmill.features.batch_server.stored_files import ApiFile, ApiFileBlock
from docmill.storage.core.schema import Corpus, Job, OutcomeRow, db_now
from docmill.storage.deletion.removal import remove_corpus
from docmill.storage.errors import DatabaseBusy, LeaseLost
from docmill.storage.leases.diagnosis import Cause
from docmill.storage.leases.policy import MAX_ATTEMPTS
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.tasks.specs.pinning import SHIPPED_FOLDER
from docmill.worker.prices import Price, Prices
from docmill.worker.settings import Settings
from docmill.worker.stores import open_store
from tests.features.batch_server.api import (
    LIMITS,
    MODELS,
    SOON,
    Api,
    chat,
    client,
    put,
    read,
    request,
    running,
    start,
    wait,
    write_lines,
)
from tests.storage.builders import count_rows
from tests.tasks.fakes import raising
from tests.worker.harness import Docmill, until


@pytest.fixture
def api(embedded: Docmill) -> Iterator[Api]:
    embedded.environment |= SOON
    embedded.loads_models = False
    home = embedded.folder / "home"
    with open_store(Settings(home=home)) as database, running(database, home) as api:
        yield api


@pytest.fixture
def alice(api: Api) -> openai.OpenAI:
    return api.client("alice")


def has_status(client: openai.OpenAI, batch_id: str, status: str) -> bool:
    return client.batches.retrieve(batch_id).status == status


def test_each_line_has_its_answer_or_its_error_and_equal_requests_are_computed_once(
    api: Api, embedded: Docmill
) -> None:
    alice = api.client("alice", weight=3)
    lines: tuple[dict[str, Any] | str, ...] = (
        *(chat(f"r{n}", f"Hello {n % 3}") for n in range(9)),
        "not json",
        {**chat("elsewhere", "x"), "url": "/v1/completions"},
        chat("unknown", "x", model="gpt-x"),
        chat("odd", "x", logprobs=True),
        chat("longer", "Hello 0", max_tokens=8),
        chat("lost", "x", model="lost"),
        chat("translator", "x", model="translator"),
        chat("encoder", "x", model="encoder"),
    )
    api.clerk.models = {**MODELS, "translator": str(SHIPPED_FOLDER / "marian-ddtp"), "encoder": "minilm"}
    batch = start(alice, put(alice, *lines), metadata={"for": "tests"})
    assert (batch.status, batch.metadata, batch.expires_at) == (
        "validating",
        {"for": "tests"},
        batch.created_at + 86400,
    )
    with api.clerk, embedded.worker():
        done = wait(alice, batch)
        assert done.request_counts is not None
        assert done.request_counts.to_dict() == {"total": 17, "completed": 10, "failed": 7}
        times = (done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at)
        assert [*times] == sorted(filter(None, times))
        answers = read(alice, done.output_file_id)
        assert [line["custom_id"] for line in answers] == [*(f"r{n}" for n in range(9)), "longer"]
        for line in answers:
            assert ChatCompletion.model_validate(line["response"]["body"]).model == "hosted"
        errors = read(alice, done.error_file_id)
        unfit = [None, "elsewhere", "unknown", "odd", "lost", "translator", "encoder"]
        assert [line["custom_id"] for line in errors] == unfit
        messages = [line["response"]["body"]["error"]["message"] for line in errors]
        assert [text.split(": ")[0] for text in messages] == [f"in.jsonl:{n}" for n in (10, 11, 12, 13, 15, 16, 17)]
        assert "hosted" in messages[2]
        assert messages[4].endswith("its operator finds the reason in the log")
        assert messages[5].endswith(': "messages" is for decoder-only models; translator is encoder-decoder')
        assert "minilm is encoder-only" in messages[6]
        assert {*api.database.rows(select(Job.sharer, Job.weight))} == {("key alice", 3)}
        assert count_rows(api.database, OutcomeRow) == 4

        # A batch that is repeated computes nothing, and a file may be deleted after its batch.
        again = wait(alice, start(alice, put(alice, *(chat(f"s{n}", f"Hello {n}") for n in range(3)))))
        assert len(read(alice, again.output_file_id)) == 3
        assert count_rows(api.database, OutcomeRow) == 4
        assert alice.files.delete(done.input_file_id).deleted
    with pytest.raises(openai.ConflictError):
        alice.batches.cancel(batch.id)


def test_a_small_model_answers_a_batch_of_the_command(embedded: Docmill) -> None:
    prices = embedded.folder / "prices.toml"
    prices.write_text("[minilm]\ninput = 1\n")
    embedded.environment |= SOON | {"DOCMILL_PRICES": str(prices)}
    assert "No keys yet" in embedded("keys", "list").stderr
    key = embedded("keys", "add", "alice", "--weight", "3").stdout.strip()
    assert embedded.json("keys", "list")[0]["name"] == "alice"
    process = embedded.start("serve", "--model", "small=minilm", "--model", "remote=openai:x", "--port", "0")
    try:
        url = until(lambda: embedded.log("serve").partition("Batch API: ")[2].partition(" ")[0], "the address")
        alice = client(url, key)
        line = request("a", "embeddings", model="small", input=["a cat", "a dog"])
        with embedded.worker():
            batch = alice.batches.create(
                input_file_id=put(alice, line), endpoint="/v1/embeddings", completion_window="24h"
            )
            (answer,) = read(alice, wait(alice, batch).output_file_id)
        vectors = CreateEmbeddingResponse.model_validate(answer["response"]["body"]).data
        assert [len(embedding.embedding) for embedding in vectors] == [384, 384]
        assert key not in embedded.log("serve") + embedded.log("worker")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, embedded.log("serve")
    assert "No price for remote in DOCMILL_PRICES" in embedded.log("serve")


def test_a_file_without_requests_or_whose_answers_could_not_be_told_apart_fails(
    api: Api, alice: openai.OpenAI
) -> None:
    twice = write_lines(chat("a", "x"), chat("a", "y")).encode()
    reasons = {
        twice: "is on line 1 already",
        b"\n": "has no requests",
        gzip.compress(twice): "in.jsonl is not text",
        b"\0\0\0\n": "in.jsonl is not UTF-8",
    }
    with api.clerk:
        for content, reason in reasons.items():
            file = alice.files.create(file=("in.jsonl", content), purpose="batch")
            failed = wait(alice, start(alice, file.id), "failed")
            assert failed.errors is not None
            assert failed.errors.data is not None
            assert reason in (failed.errors.data[0].message or "")
            assert failed.failed_at


def test_batches_that_fail_for_now_keep_no_other_waiting(
    api: Api, alice: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(alice, "oops")
    stuck = {start(alice, file).id for _ in range(clerk.AT_ONCE)}

    def survey(batch_file: BatchFile) -> tuple[dict[Call, str], int, int]:
        if batch_file.name.rpartition("/")[2] in stuck:
            raise RuntimeError
        return real_survey(batch_file)

    monkeypatch.setattr(clerk, "survey", survey)
    monkeypatch.setattr(clerk, "AGAIN_S", 1.0)
    with api.clerk:
        wait(alice, start(alice, file))
        assert {batch.status for batch in alice.batches.list() if batch.id in stuck} == {"validating"}
        stuck.clear()
        for batch in alice.batches.list():
            wait(alice, batch)


def test_a_clerk_goes_on_after_a_thread_that_could_not_start(
    api: Api, alice: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors, start_thread = [RuntimeError("can't start new thread")], threading.Thread.start

    def start_or_fail(thread: threading.Thread) -> None:
        if thread.name == "clerk" and errors:
            raise errors.pop()
        start_thread(thread)

    monkeypatch.setattr(clerk, "AGAIN_S", 0.1)
    with api.clerk:
        monkeypatch.setattr(threading.Thread, "start", start_or_fail)
        wait(alice, start(alice, put(alice, "oops")))
    assert "RuntimeError: can't start new thread" in caplog.text


def test_a_batch_that_is_cancelled_or_expires_has_the_answers_so_far(
    api: Api, alice: openai.OpenAI, embedded: Docmill
) -> None:
    first = start(alice, put(alice, chat("a", "one"), chat("b", "two")))
    with api.clerk:
        with embedded.worker():
            wait(alice, first)
        file = put(alice, chat("a", "one"), chat("b", "another"), "oops")  # one of which is computed already
        batches = {status: start(alice, file) for status in ("cancelled", "expired")}
        for batch in batches.values():
            until(partial(has_status, alice, batch.id, "in_progress"), "the jobs")
        assert alice.batches.cancel(batches["cancelled"].id).cancelling_at
        late = update(ApiBatch).where(ApiBatch.id == batches["expired"].id).values(expires_at=db_now() - 1)
        api.database.write(lambda transaction: transaction.execute(late))
        for status, batch in batches.items():
            ended = wait(alice, batch, status)
            assert [line["custom_id"] for line in read(alice, ended.output_file_id)] == ["a"]
            lacking, refused = read(alice, ended.error_file_id)
            assert (lacking["custom_id"], lacking["response"], lacking["error"]["code"]) == (
                "b",
                None,
                f"batch_{status}",
            )
            assert refused["response"]["status_code"] == 400
            assert ended.request_counts is not None
            assert ended.request_counts.to_dict() == {"total": 3, "completed": 1, "failed": 2}
        # Cancelling what is cancelled changes nothing.
        assert alice.batches.cancel(batches["cancelled"].id).status == "cancelled"
    # The operator removes the files of a batch. Those of others stay.
    before = {listed.id for listed in alice.files.list()}
    embedded("keys", "rm-files", ended.id, "--yes")
    of_batch = {ended.input_file_id, ended.output_file_id, ended.error_file_id}
    assert {listed.id for listed in alice.files.list()} == before - of_batch
    assert of_batch < before
    with api.database.read() as transaction:
        assert {*transaction.scalars(select(Job.state))} == {"done", "cancelled"}


def test_a_batch_keeps_its_other_answers_when_the_corpus_of_a_job_is_removed(
    api: Api, alice: openai.OpenAI, embedded: Docmill
) -> None:
    batch = start(alice, put(alice, chat("a", "Hello"), chat("b", "Hello", max_tokens=8)))
    api.clerk.carry_on(batch.id)
    with embedded.worker():
        until(lambda: batch.id in stored_batches.find_due(api.database), "the end of its jobs")
    corpus, _ = api.database.values(select(Corpus.name).order_by(Corpus.id))
    remove_corpus(api.database, corpus)
    with api.clerk:
        done = wait(alice, batch)
    assert [line["custom_id"] for line in read(alice, done.output_file_id)] == ["b"]
    [removed] = read(alice, done.error_file_id)
    assert (removed["custom_id"], removed["error"]["code"]) == ("a", "batch_stopped")


def test_a_batch_that_was_computed_before_it_expired_is_completed(api: Api, alice: openai.OpenAI) -> None:
    batch = start(alice, put(alice, "oops"))
    api.clerk.carry_on(batch.id)
    assert has_status(alice, batch.id, "in_progress")
    late = update(ApiBatch).values(expires_at=db_now() - 1)
    api.database.execute(late)
    with api.clerk:
        assert wait(alice, batch).error_file_id


def test_a_lease_from_before_the_clock_was_set_back_lapses(api: Api, alice: openai.OpenAI) -> None:
    batch = start(alice, put(alice, "oops"))
    api.database.execute(update(ApiBatch).values(owner="killed", lease_until=db_now() + 3600))
    assert stored_batches.find_due(api.database) == [batch.id]
    assert stored_batches.hold(api.database, batch.id, "another", 10.0)


def test_batches_that_can_end_come_before_those_that_may_fail_for_now(api: Api, alice: openai.OpenAI) -> None:
    file = put(alice, "oops")
    computed = start(alice, file).id
    api.clerk.carry_on(computed)
    others = {start(alice, file).id for _ in range(9)}
    first, *rest = stored_batches.find_due(api.database)
    assert (first, {*rest}) == (computed, others)


def test_each_batch_is_looked_at_however_many_are_computed(
    api: Api, alice: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_batches, "MOST_LOOKED_AT", 1)
    first, second = (start(alice, put(alice, chat("a", text))) for text in ("one", "two"))
    for batch in (first, second):
        api.clerk.carry_on(batch.id)
    api.database.execute(update(Job).values(state="done").where(Job.id == 2))
    until(lambda: stored_batches.find_due(api.database) == [second.id], "a look at the second batch")


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling"])
def test_a_batch_of_a_clerk_that_was_killed_is_carried_on_once(
    api: Api, alice: openai.OpenAI, embedded: Docmill, status: str
) -> None:
    """The clerk is killed when all of its work is done but for the last write, which gives the batch its status."""
    batch = start(alice, put(alice, *(chat(f"r{n}", f"Hello {n}") for n in range(5)), "oops"))

    def stop_before_the_end(*_: object, **__: object) -> None:
        raise KilledHere

    class KilledHere(BaseException):
        pass

    dying = Clerk(api.settings, api.database, MODELS, LIMITS)
    with embedded.worker():
        for before in ("validating", "in_progress", "finalizing"):
            if status in {before, "cancelling"} and (status != "cancelling" or before == "in_progress"):
                break
            until(lambda: batch.id in stored_batches.find_due(api.database), f"the end of {before}")
            dying.carry_on(batch.id)
        if status == "cancelling":
            alice.batches.cancel(batch.id)
        until(lambda: batch.id in stored_batches.find_due(api.database), "work for the clerk")
        assert alice.batches.retrieve(batch.id).status == status
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stored_batches, "advance", stop_before_the_end)
            patch.setattr(stored_batches, "give_back", lambda *_: None)
            patch.setattr(stored_files.FileWriter, "__exit__", lambda *_: None)
            with pytest.raises(KilledHere):
                dying.carry_on(batch.id)
        assert batch.id not in stored_batches.find_due(api.database)  # its lease lasts
        lapsed = update(ApiBatch).values(lease_until=db_now() - 1)
        api.database.write(lambda transaction: transaction.execute(lapsed))
        with api.clerk:
            ended = wait(alice, batch, "cancelled" if status == "cancelling" else "completed")
    if status != "cancelling":
        assert [line["custom_id"] for line in read(alice, ended.output_file_id)] == [f"r{n}" for n in range(5)]
    assert count_rows(api.database, Job) == 1
    shown = {file.id for file in alice.files.list(purpose="batch_output")}
    assert shown == {*filter(None, (ended.output_file_id, ended.error_file_id))}
    # What the killed one had written goes a day later.
    api.database.write(lambda transaction: transaction.execute(update(ApiFile).values(created_at=db_now() - 10**6)))
    stored_batches.remove_old(api.database)
    with api.database.read() as transaction:
        kept = {*transaction.scalars(select(ApiFileBlock.file_id))}
    assert kept == shown | {batch.input_file_id}


def test_a_batch_whose_models_change_while_it_validates_fails_and_its_jobs_end(
    api: Api, alice: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object, **__: object) -> None:
        raise LeaseLost

    batch = start(alice, put(alice, chat("a", "Hello")))
    with monkeypatch.context() as patch:
        patch.setattr(stored_batches, "advance", lose)
        with pytest.raises(LeaseLost):
            api.clerk.carry_on(batch.id)
    api.clerk.models = {**MODELS, "hosted": "null@1000"}
    api.clerk.carry_on(batch.id)
    failed = alice.batches.retrieve(batch.id)
    assert failed.status == "failed"
    assert "create the batch again" in str(failed.errors)
    assert [*api.database.values(select(Job.state))] == ["cancelled"]


def test_a_finalizing_batch_whose_requests_an_upgrade_reads_differently_fails(
    api: Api, alice: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = start(alice, put(alice, chat("a", "x", model="lost")))
    api.clerk.carry_on(batch.id)
    api.clerk.carry_on(batch.id)
    assert has_status(alice, batch.id, "finalizing")
    monkeypatch.setattr(clerk, "list_calls", lambda _: [])
    api.clerk.carry_on(batch.id)
    failed = alice.batches.retrieve(batch.id)
    assert failed.status == "failed"
    assert "create the batch again" in str(failed.errors)


def test_a_batch_whose_answers_cannot_be_written_fails_after_a_few_attempts(
    api: Api, alice: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is away for a while is no such attempt."""
    batch = start(alice, put(alice, "oops"))
    api.clerk.carry_on(batch.id)
    api.clerk.carry_on(batch.id)
    for error, n in ((DatabaseBusy(), 2 * MAX_ATTEMPTS), (ValueError("a bug"), MAX_ATTEMPTS - 1)):
        monkeypatch.setattr(clerk, "answer_lines", raising(error))
        for _ in range(n):
            with pytest.raises(type(error)):
                api.clerk.carry_on(batch.id)
        assert has_status(alice, batch.id, "finalizing")
    api.clerk.carry_on(batch.id)
    failed = alice.batches.retrieve(batch.id)
    assert failed.status == "failed"
    assert "its operator finds the reason in the log" in str(failed.errors)
    assert "a bug" not in str(failed.errors)


def test_a_batch_is_not_ended_by_a_clerk_that_saw_it_before_another_made_its_jobs(
    api: Api, alice: openai.OpenAI
) -> None:
    batch = start(alice, put(alice, chat("r1", "Hello")))
    first, second = (Clerk(api.settings, api.database, MODELS, LIMITS) for _ in range(2))
    for each in (first, second):
        each.carry_on(batch.id)
        assert alice.batches.retrieve(batch.id).status == "in_progress"


def test_a_cancel_that_races_with_the_end_leaves_one_of_them(api: Api, alice: openai.OpenAI) -> None:
    batch = start(alice, put(alice, "oops"))
    held = stored_batches.hold(api.database, batch.id, "first", 15.0)
    assert held is not None
    assert stored_batches.hold(api.database, batch.id, "second", 15.0) is None
    assert alice.batches.cancel(batch.id).status == "cancelling"
    assert not stored_batches.renew(api.database, held, "first", 15.0)
    with pytest.raises(LeaseLost):
        stored_batches.advance(api.database, held, "first", "in_progress", plan={"calls": []})
    stored_batches.give_back(api.database, batch.id, "first")
    with api.clerk:
        assert wait(alice, batch, "cancelled").output_file_id is None


def test_a_limit_of_costs_pauses_the_jobs_of_a_batch_and_those_of_a_key(embedded: Docmill) -> None:
    embedded.loads_models = False
    embedded.environment |= SOON
    prices = embedded.folder / "prices.toml"
    prices.write_text("[null]\ninput = 1_000_000\n")  # one for each token
    home = embedded.folder / "home"
    with open_store(Settings(home=home)) as database, running(database, home, prices=prices) as api:
        alice = api.client("alice")

        def read_row(batch: Batch) -> ApiBatch:
            with database.read() as transaction:
                return ApiBatch.of(transaction.execute(select(ApiBatch).where(ApiBatch.id == batch.id)).one())

        def waits_for_money(job: int) -> bool:
            return read_status(database, job).waiting_cause is Cause.COST

        def read_error(batch: Batch) -> str | None:
            errors = alice.batches.retrieve(batch.id).errors
            return errors.data[0].message if errors is not None and errors.data else None

        def spent() -> float:
            return keys.list_keys(database)[0].spent

        with api.clerk:
            file = put(alice, chat("a", "one two three"), chat("b", "one two three", max_tokens=8))
            batch = start(alice, file, metadata={"max_cost": "1"})
            until(partial(has_status, alice, batch.id, "in_progress"), "the jobs")
            first, second = read_row(batch).jobs
            jobs.pause(database, second)
            assert read_error(batch) is None
            with embedded.worker():
                until(lambda: read_status(database, first).ended, "the first job")
            jobs.resume(database, second)
            assert waits_for_money(second)
            assert 'its "max_cost"' in (read_error(batch) or "")
            alice.batches.cancel(batch.id)
            ended = wait(alice, batch, "cancelled")
            assert read_error(batch) is None
            assert [line["custom_id"] for line in read(alice, ended.output_file_id)] == ["a"]
            assert [line["error"]["code"] for line in read(alice, ended.error_file_id)] == ["batch_cancelled"]
            cost = spent()
            assert cost > 1

            # Another batch pays only for what is left, until the key reaches its limit.
            rest = start(alice, file, metadata={"max_cost": str(cost)})
            until(partial(has_status, alice, rest.id, "in_progress"), "the jobs")
            (_, second) = read_row(rest).jobs
            assert (waits_for_money(second), read_error(rest), spent()) == (False, None, cost)
            keys.change_key(database, "alice", max_cost=cost)
            assert waits_for_money(second)
            assert "of your key" in (read_error(rest) or "")
            with pytest.raises(openai.RateLimitError) as refused:
                start(alice, file)
            assert refused.value.code == "cost_limit_reached"
            assert "stays paused" in embedded("resume", second).stderr
            keys.change_key(database, "alice", max_cost=10 * cost)
            assert (waits_for_money(second), read_error(rest)) == (False, None)
            with embedded.worker():
                wait(alice, rest)
            assert spent() == 2 * cost


@pytest.mark.parametrize(("of_key", "of_batch"), [({"max_cost": 1.0}, {}), ({}, {"max_cost": "1"})])
def test_a_served_model_without_a_price_takes_no_request_with_a_limit_of_costs(
    api: Api, of_key: dict[str, float], of_batch: dict[str, str]
) -> None:
    api.clerk.models = {"remote": "openai:small"}
    api.clerk.prices = Prices({"null": Price(1.0)})
    alice = api.client("alice", **of_key)
    batch = start(alice, put(alice, chat("a", "Hello", model="remote")), metadata=of_batch)
    for _ in ("validating", "in_progress", "finalizing"):
        api.clerk.carry_on(batch.id)
    [error] = read(alice, alice.batches.retrieve(batch.id).error_file_id)
    assert 'the model "remote" has no price' in error["response"]["body"]["error"]["message"]
    assert count_rows(api.database, Job) == 0


def test_a_batch_is_sampled_anew_only_where_the_server_says_so(
    api: Api, alice: openai.OpenAI, embedded: Docmill
) -> None:
    drawn = {"temperature": 1}
    file = put(
        alice, chat("free", "Hello", **drawn), chat("fixed", "Hello", **drawn, seed=3), chat("greedy", "Hello")
    )
    with api.clerk, embedded.worker():
        for _ in range(2):
            wait(alice, start(alice, file))
        assert count_rows(api.database, OutcomeRow) == 3
        api.clerk.limits = replace(api.clerk.limits, samples_anew=True)
        for n in (4, 5):
            wait(alice, start(alice, file))
            assert count_rows(api.database, OutcomeRow) == n
