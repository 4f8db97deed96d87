"""A hint's way through a device process, on a real store; the engine's outcomes are the test's own."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, cast
from unittest import mock

import pytest
from sqlalchemy import select, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow, Refusal, Shard, Worker, db_now
from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.errors import DatabaseUnreachable, LeaseLost, UnexpectedDatabaseError
from docmill.storage.leases import dispatch, maintenance, shards
from docmill.storage.leases.diagnosis import check_health
from docmill.storage.leases.shards import Claim, ShardHead
from docmill.tasks.backends import Backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.errors import CannotServe, DeviceLost, ServerAway
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.windows.windows import Encoded
from docmill.worker.engines import opener
from docmill.worker.process.shard import (
    AWAY_S,
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    Breaker,
    CircuitOpen,
    Gate,
    InFlight,
    Process,
    ShardsInFlight,
)
from docmill.worker.settings import load_settings
from tests.storage.builders import COPY, at_once, read, request, set_shard, shard, sign_on, take
from tests.tasks.fakes import FakeBackend, spec_of
from tests.worker.harness import until
from tests.worker.process.test_counts import Clock

RUNTIME = {"device": "cpu", "precision": "float32", "backend": "none", "versions": {}}


class HalfDone:
    """A ticket whose first text has its outcome."""

    complete = False

    def __init__(self, content_id: int) -> None:
        self._content_id = content_id

    def finished(self) -> list[Outcome]:
        return [Outcome(self._content_id, Status.DONE, text="finished", tokens_in=1)]

    def take_journaled(self, content_ids: Iterable[int]) -> list[Encoded]:
        assert [*content_ids] == [self._content_id], "the backend need not keep what is stored"
        return []


def process_with(database: Database, engine: Any, **more: Any) -> Process:
    """Return a process without a queue."""
    return Process(owner="me", database=database, broker=cast(Any, None), engine=engine, lease_s=60, **more)


@pytest.fixture
def process(database: Database) -> Process:
    return process_with(database, Engine(cast(Any, None)))


def _claimed_again(database: Database, shard_id: int) -> InFlight:
    head = shards.look(database, shard_id)
    assert head is not None
    claim = shards.claim(database, head, "me")
    assert claim is not None
    return InFlight(head, claim)


def _claim_two(database: Database) -> InFlight:
    return _claimed_again(database, _hinted(database, "a", "b"))


def _hinted(database: Database, *keys: str, spec: Spec = COPY) -> int:
    """Return a shard in the queue with the texts of these keys."""
    job = read(database, request(corpus=spec.model, spec=spec), [(key, f"text {key}") for key in keys])
    [lane] = dispatch.lanes(database, only_job=job.id)
    return take(database, lane)[0]


def state_of(database: Database, shard_id: int) -> tuple[str, int]:
    """Return the state of a shard, and the number of its attempts."""
    row = shard(database, shard_id)
    return row.state, row.attempt


def test_a_shard_that_is_given_back_keeps_its_finished_texts(database: Database, process: Process) -> None:
    ours = _claim_two(database)
    ours.ticket, ours.runtime = cast(Any, HalfDone(ours.claim.texts[0][0])), RUNTIME
    process.in_flight.enter(ours)
    process.give_back()
    rows = database.rows(select(Shard.state, Shard.attempt, Shard.n_contents).order_by(Shard.id))
    assert rows == [("planned", 0, 1), ("done", 0, 1)]
    [row] = database.rows(select(OutcomeRow.text, OutcomeRow.runtime_id))
    assert row.text == "finished"
    assert row.runtime_id is not None


def test_answers_for_a_shard_that_was_taken_away_are_not_forgotten(
    database: Database, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = _claim_two(database)
    forgotten: list[object] = []
    ticket = HalfDone(ours.claim.texts[0][0])
    monkeypatch.setattr(ticket, "take_journaled", forgotten.append)
    ours.ticket, ours.runtime = cast(Any, ticket), RUNTIME
    process.in_flight.enter(ours)
    maintenance.release_owner(database, "me")
    process._settle(ours)
    process.give_back()
    assert not forgotten
    assert database.value(select(OutcomeRow.text)) is None


def test_a_shard_that_is_claimed_while_all_are_given_back_is_given_back_too(
    database: Database, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard_id = _hinted(database, "a")
    began, goes_on = Event(), Event()
    claim = shards.claim

    def claim_slowly(*args: Any) -> Any:
        began.set()
        assert goes_on.wait(60)
        return claim(*args)

    monkeypatch.setattr(shards, "claim", claim_slowly)
    monkeypatch.setattr(process, "_can_serve", lambda _: True)
    monkeypatch.setattr(process, "_compute", lambda *_: None)
    claiming = threading.Thread(target=process.run_shard, args=(shard_id,))
    giving_back = threading.Thread(target=process.give_back)
    claiming.start()
    assert began.wait(60)
    giving_back.start()
    assert process.draining.wait(60)
    goes_on.set()
    claiming.join()
    giving_back.join()
    assert state_of(database, shard_id) == ("planned", 0)


def test_a_process_keeps_a_hint_until_the_database_is_back(
    database: Database, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def look(_: Database, shard_id: int) -> None:
        looks.append(shard_id)
        if len(looks) < 3:
            raise DatabaseUnreachable

    monkeypatch.setattr(shards, "look", look)
    process.run_shard(7)
    assert looks == [7, 7, 7]


def test_a_process_that_drains_puts_a_hint_back_and_does_not_wait_with_it(
    database: Database, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard_id = _hinted(database, "a")

    def look(_: Database, shard_id: int) -> None:
        process.draining.set()
        raise DatabaseUnreachable

    monkeypatch.setattr(shards, "look", look)
    process.run_shard(shard_id)
    assert shard(database, shard_id).state == "planned"


def test_a_shard_of_a_job_at_its_cost_limit_leaves_its_place_in_the_queue_to_others(
    database: Database, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard_id = _hinted(database, "a")
    head = shards.look(database, shard_id)
    assert head is not None
    monkeypatch.setattr(shards, "look", lambda *_: replace(head, at_limit=True))
    topped_up: list[str] = []
    monkeypatch.setattr(process, "_top_up", topped_up.append)
    process.run_shard(shard_id)
    assert (shard(database, shard_id).state, topped_up) == ("planned", [head.lane])


def test_a_hint_is_put_back_where_the_engine_stops_before_its_model_is_loaded(database: Database) -> None:
    shard_id = _hinted(database, "a")

    def open_backend(spec: Spec) -> Backend:
        raise AssertionError("nothing is loaded any more")

    engine = Engine(open_backend)
    engine.drain()
    process_with(database, engine).run_shard(shard_id)
    assert state_of(database, shard_id) == ("planned", 0)


@pytest.mark.parametrize("dies", ["before the hint", "before the claim", "under the shard"])
def test_a_process_whose_engine_died_ends_and_leaves_a_shard_that_the_device_had_to_its_supervisor(
    database: Database, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    def lose(_: list[str]) -> None:
        raise DeviceLost

    shard_id = _hinted(database, "a", spec=spec_of())
    engine = Engine(lambda spec: FakeBackend(lose))
    engine.start()
    if dies != "under the shard":
        assert engine.submit(spec_of(), [(1, "text")]).wait(60)
    monkeypatch.setattr("os._exit", sys.exit)
    if dies == "before the claim":
        monkeypatch.setattr(engine, "open", lambda _: None)
    with pytest.raises(SystemExit):
        process_with(database, engine).run_shard(shard_id)
    assert state_of(database, shard_id) == (("running", 1) if dies == "under the shard" else ("planned", 0))


def test_no_attempt_is_spent_on_a_shard_whose_server_goes_away_after_its_claim(database: Database) -> None:
    shard_id = _hinted(database, "a")

    class Away:
        def open(self, spec: Spec) -> None:
            """Find the server there."""

        def hold(self, spec: Spec) -> None:
            taking.draining.set()  # it takes no other shard
            raise CannotServe("the server does not answer")

    events: list[str] = []
    taking = process_with(database, Away(), say=lambda event, **_: events.append(event))
    taking.run_shard(shard_id)
    assert events == ["refused", "idle"]
    assert state_of(database, shard_id) == ("planned", 0)


def test_a_server_that_goes_away_during_a_shard_makes_no_suspect_and_is_asked_again_later(
    database: Database, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard_id = _hinted(database, "a")
    sign_on(database, "me")
    ticket = mock.Mock(away=ServerAway("no money left"), complete=False)
    ticket.finished.return_value = []
    engine = mock.Mock(**{"submit.return_value": ticket, "runtime_since.return_value": RUNTIME})
    engine.hold = lambda _: nullcontext(RUNTIME)
    monkeypatch.setattr(process, "engine", engine)
    monkeypatch.setattr(process, "_top_up", lambda _: None)
    monkeypatch.setattr("docmill.worker.process.shard.os._exit", mock.Mock(side_effect=SystemExit))

    def count_opens() -> int:
        set_shard(database, shard_id, state="queued")
        process.run_shard(shard_id)
        row = shard(database, shard_id)
        assert (row.state, row.attempt, row.suspect, row.lapses) == ("planned", 0, 0, 0)
        return int(engine.open.call_count)

    assert count_opens() == 1
    assert database.value(select(Refusal.reason)) == f"cannot serve {COPY}: no money left"
    assert count_opens() == 1
    later = time.monotonic() + AWAY_S
    monkeypatch.setattr("docmill.worker.process.shard.time.monotonic", lambda: later)
    assert count_opens() == 2


def test_a_process_that_consumes_nothing_is_unhealthy(database: Database, process: Process) -> None:
    sign_on(database, "me", host="h")

    def problem(*, consumes: bool) -> str | None:
        database.execute(update(Worker).values(started_at=db_now() - 90, consumed_at=db_now() - 90))
        process.heartbeat(consumes=consumes)
        return check_health(database, "h")[1]

    assert "has taken nothing from the queue for" in (problem(consumes=False) or "")
    assert problem(consumes=True) is None


def test_a_process_whose_device_computes_nothing_is_unhealthy_until_it_serves_something(
    database: Database, tmp_path: Path
) -> None:
    """No machine has a hundred devices, so the last of them can compute nothing."""
    settings = load_settings(home=tmp_path)
    pinned, null = (pinning.pin(name, ModelFolders(None, tmp_path)) for name in ("minilm", "null"))
    engine = Engine(opener(settings, "cuda:99"))
    engine.start()
    process = process_with(database, engine)
    sign_on = partial(dispatch.sign_on, database, "me", host="h", pid=1, device="cuda:99", slots=1, version="0")
    sign_on(lanes=["embed"])

    def problem() -> str | None:
        process.heartbeat(consumes=True)
        return check_health(database, "h")[1]

    try:
        assert problem() is None
        process.run_shard(_hinted(database, "a", spec=Spec("embed", pinned.model, pinned.revision, "float32")))
        assert "the worker on cuda:99 can compute nothing" in (problem() or "")
        shard_id = _hinted(database, "a", spec=Spec("embed", null.model, null.revision, "float32"))
        head = shards.look(database, shard_id)
        assert head is not None
        assert process._can_serve(head)
        assert problem() is None
    finally:
        engine.close()


def test_a_shard_that_was_lost_and_claimed_again_by_the_same_process_keeps_its_lease(
    database: Database, process: Process
) -> None:
    lost = _claim_two(database)
    process.in_flight.enter(lost)
    database.execute(update(Shard).values(state="queued", fence=Shard.fence + 1))
    reclaimed = _claimed_again(database, lost.claim.shard_id)
    process.in_flight.enter(reclaimed)
    process.heartbeat(consumes=True)
    assert (lost.lost.is_set(), reclaimed.lost.is_set()) == (True, False)
    process.in_flight.leave(lost)
    process.heartbeat(consumes=True)
    assert not reclaimed.lost.is_set()
    assert process.computed() == {reclaimed.claim.job_id: 0.0}
    assert [ours.claim.fence for ours in process.in_flight.held()] == [reclaimed.claim.fence]


def _claim(shard_id: int, fence: int = 1) -> InFlight:
    head = ShardHead(shard_id, fence - 1, lane="copy", alone=False, spec_id=1, spec=Spec("copy", "m", "r"))
    claim = Claim(
        shard_id=shard_id, job_id=1, fence=fence, owner="me", attempt=fence, redo=False, spec_id=1,
        contents=(), texts=(), started_at=0.0,
    )  # fmt: skip
    return InFlight(head, claim)


def test_time_with_a_shard_in_flight_is_counted_once_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("docmill.worker.process.shard.time.monotonic", lambda: now[0])
    shards, first, second = ShardsInFlight(), _claim(1), _claim(2)
    shards.enter(first)
    now[0] = 101.0
    shards.enter(second)
    now[0] = 103.0
    shards.leave(first)
    assert shards.worked_s() == 3.0
    now[0] = 104.0
    shards.leave(second)
    now[0] = 200.0
    assert shards.worked_s() == 4.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def write(breaker: Breaker, error: Exception | None = None) -> None:
    with breaker.attempt():
        if error is not None:
            raise error


def refused(breaker: Breaker) -> None:
    with pytest.raises(UnexpectedDatabaseError):
        write(breaker, UnexpectedDatabaseError("the archive is closed"))


def wait_s(breaker: Breaker) -> float:
    """Return the seconds that the next write has to wait."""
    with pytest.raises(CircuitOpen, match="the archive is closed") as caught:
        write(breaker)
    return caught.value.wait_s


def test_refusals_in_a_row_are_ever_longer_apart_up_to_a_bound(breaker: Breaker, clock: Clock) -> None:
    waits = []
    for _ in range(9):
        refused(breaker)
        waits.append(wait_s(breaker))
        clock.now += waits[-1]
    assert waits[:4] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S, 8 * FIRST_RETRY_S]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_RETRY_S
    write(breaker)
    refused(breaker)
    assert wait_s(breaker) == FIRST_RETRY_S, "what passed is forgotten"


def test_one_write_at_a_time_probes_a_store_that_refused(breaker: Breaker, clock: Clock) -> None:
    refused(breaker)
    clock.now += FIRST_RETRY_S
    inside, leave = Event(), Event()

    def ask() -> None:
        with breaker.attempt():
            inside.set()
            assert leave.wait(60)

    def try_to_write() -> None:
        assert inside.wait(60)
        assert wait_s(breaker) > 0
        leave.set()

    at_once(ask, try_to_write)
    write(breaker)


def test_writes_that_are_refused_together_count_as_one_refusal(breaker: Breaker, clock: Clock) -> None:
    def fail(n: int) -> None:
        with breaker.attempt():
            started.append(n)
            until(lambda: len(started) == 4, "all are under way")
            raise UnexpectedDatabaseError("the archive is closed")

    started: list[int] = []

    def try_(n: int) -> None:
        with pytest.raises(UnexpectedDatabaseError):
            fail(n)

    at_once(*[lambda n=n: try_(n) for n in range(4)])
    assert wait_s(breaker) == FIRST_RETRY_S


def test_a_store_that_is_away_opens_nothing_and_settles_nothing(breaker: Breaker, clock: Clock) -> None:
    with pytest.raises(DatabaseUnreachable):
        write(breaker, DatabaseUnreachable())
    write(breaker)
    refused(breaker)
    clock.now += FIRST_RETRY_S
    with pytest.raises(DatabaseUnreachable):
        write(breaker, DatabaseUnreachable())
    assert breaker.trouble is not None
    write(breaker)
    assert not breaker.trouble


def test_a_lost_lease_is_an_answer_of_a_store_that_works(breaker: Breaker, clock: Clock) -> None:
    refused(breaker)
    clock.now += FIRST_RETRY_S
    with pytest.raises(LeaseLost):
        write(breaker, LeaseLost())
    assert not breaker.trouble


def test_a_bug_in_a_probing_write_leaves_the_probe_to_the_next(breaker: Breaker, clock: Clock) -> None:
    refused(breaker)
    clock.now += FIRST_RETRY_S
    with pytest.raises(ZeroDivisionError):
        write(breaker, ZeroDivisionError())
    write(breaker)


@pytest.fixture
def waits() -> threading.Semaphore:
    """A semaphore that is released when a thread begins to wait at the gate."""
    return threading.Semaphore(0)


@pytest.fixture
def gate(waits: threading.Semaphore, monkeypatch: pytest.MonkeyPatch) -> Gate:
    class Condition(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waits.release()
            return super().wait(timeout)

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Condition", Condition)
        return Gate()


@pytest.fixture
def go_through(gate: Gate) -> Iterator[Callable[..., tuple[Event, Event]]]:
    """A function that sends a thread through the gate. It returns two events: inside, and may leave."""
    with ThreadPoolExecutor() as threads:

        def start(*, alone: bool) -> tuple[Event, Event]:
            inside, leave = Event(), Event()

            def go() -> None:
                with gate.passing(alone=alone):
                    inside.set()
                    assert leave.wait(60)

            threads.submit(go)
            return inside, leave

        yield start


def test_a_suspect_waits_until_it_is_alone_and_keeps_others_out(
    go_through: Callable[..., tuple[Event, Event]], waits: threading.Semaphore
) -> None:
    first_in, first_out = go_through(alone=False)
    assert first_in.wait(60)
    suspect_in, suspect_out = go_through(alone=True)
    assert waits.acquire(timeout=60)
    assert not suspect_in.is_set()
    later_in, later_out = go_through(alone=False)
    assert waits.acquire(timeout=60), "one that comes later does not go before a suspect that waits"
    assert not later_in.is_set()
    first_out.set()
    assert suspect_in.wait(60)
    assert waits.acquire(timeout=60), "the later one looked again"
    assert not later_in.is_set()
    suspect_out.set()
    assert later_in.wait(60)
    later_out.set()


def test_two_suspects_go_one_after_the_other(
    go_through: Callable[..., tuple[Event, Event]], waits: threading.Semaphore
) -> None:
    one_in, one_out = go_through(alone=True)
    assert one_in.wait(60)
    two_in, two_out = go_through(alone=True)
    assert waits.acquire(timeout=60)
    assert not two_in.is_set()
    one_out.set()
    assert two_in.wait(60)
    two_out.set()
