"""The engine returns an outcome for each text, whatever its backend does."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from docmill.storage.core.specs import Reason, Spec, Status
from docmill.tasks import kinds
from docmill.tasks.backends import WindowSource
from docmill.tasks.batching import Budget
from docmill.tasks.engine.engine import PORTION_TEXTS, Batch, Engine, Ticket
from docmill.tasks.errors import CannotServe, DeviceLost, EngineStopped, ServerAway
from docmill.tasks.kinds.base import Recipe, TextOnly, Traits
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded
from tests.tasks.conftest import EngineOf, outcomes_of, vector_of
from tests.tasks.fakes import FakeBackend, spec_of
from tests.worker.harness import until

WAIT_S = 20


class Gate:
    """Holds the device thread in its first batch until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, texts: list[str]) -> None:
        self.reached.set()
        assert self.open.wait(WAIT_S)


def refuse(word: str) -> Callable[[list[str]], None]:
    """Return a function that raises if a text contains a word."""

    def on_compute(texts: list[str]) -> None:
        if any(word in text for text in texts):
            raise ValueError("secret text of a document")

    return on_compute


def test_outcomes_come_in_the_order_of_the_texts(engine_of: EngineOf) -> None:
    engine = engine_of(lambda spec: FakeBackend())
    outcomes = outcomes_of(engine, spec_of(), ["word " * (n * 37 % 50 + 1) for n in range(100)])
    assert [outcome.content_id for outcome in outcomes] == list(range(100))
    assert [vector_of(outcome)[0] for outcome in outcomes] == [n * 37 % 50 + 1 for n in range(100)]


def test_out_of_memory_halves_the_batch_and_lowers_the_budget(engine_of: EngineOf) -> None:
    backend = FakeBackend(memory_tokens=40, budget=Budget(tokens=100, rows=100))
    engine = engine_of(lambda spec: backend)
    outcomes = outcomes_of(engine, spec_of(), ["word " * 10] * 20)
    assert all(outcome.status == Status.DONE for outcome in outcomes)
    assert backend.loop.budget.tokens <= 50
    assert len(backend.batches[-1]) <= 4


def test_a_window_that_does_not_fit_alone_fails_its_document_only(engine_of: EngineOf) -> None:
    backend = FakeBackend(memory_tokens=40, limit_tokens=50, budget=Budget(tokens=400, rows=8))
    engine = engine_of(lambda spec: backend)
    texts = ["word " * number for number in (*range(1, 13), 70, 40)]
    outcomes = outcomes_of(engine, spec_of(), texts)
    assert [outcome.content_id for outcome in outcomes if outcome.status is Status.FAILED] == [12]
    assert "50 tokens does not fit in the device's memory, even alone. (window 1 of 2)" in (outcomes[12].reason or "")
    assert outcomes[12].vector is None
    later = outcomes_of(engine, spec_of(), texts[:12])
    assert all(outcome.status is Status.DONE for outcome in later)


def test_an_error_on_a_text_fails_its_document_and_is_reported_without_its_words(engine_of: EngineOf) -> None:
    engine = engine_of(lambda spec: FakeBackend(refuse("bad")))
    good, bad, last = outcomes_of(engine, spec_of(), ["good", "bad", "good"])
    assert (good.status, last.status) == (Status.DONE, Status.DONE)
    assert (bad.status, bad.reason_class) == (Status.FAILED, Reason.DOCUMENT)
    assert "ValueError" in (bad.reason or "")
    assert "secret" not in (bad.reason or "")


def test_an_error_on_every_text_is_the_models_fault(engine_of: EngineOf) -> None:
    engine = engine_of(lambda spec: FakeBackend(refuse("")))
    outcomes = outcomes_of(engine, spec_of(), ["one", "two"])
    assert [outcome.reason_class for outcome in outcomes] == [Reason.MODEL, Reason.MODEL]


def test_the_tail_of_one_ticket_shares_a_batch_with_the_head_of_the_next(engine_of: EngineOf) -> None:
    gate = Gate()
    backend = FakeBackend(gate)
    engine = engine_of(lambda spec: backend)
    first = engine.submit(spec_of(), [(0, "hold")])
    assert gate.reached.wait(WAIT_S)
    tickets = [engine.submit(spec_of(), [(n, f"{name} word")]) for n, name in enumerate("abc")]
    gate.open.set()
    assert all(ticket.wait(WAIT_S) for ticket in (first, *tickets))
    assert backend.batches == [["hold"], ["a word", "b word", "c word"]]


def test_a_dropped_tickets_windows_leave_the_pool_and_never_come_back(engine_of: EngineOf) -> None:
    gate = Gate()
    backend = FakeBackend(gate, budget=Budget(tokens=100, rows=1))
    engine = engine_of(lambda spec: backend)
    dropped = engine.submit(spec_of(), [(n, f"dropped {n}") for n in range(5)])
    assert gate.reached.wait(WAIT_S)
    ticket = engine.submit(spec_of(), [(9, "kept")])
    dropped.drop()
    gate.open.set()
    assert ticket.wait(WAIT_S)
    assert dropped.wait(0)
    assert not dropped.complete
    assert backend.batches == [["dropped 0"], ["kept"]]


def test_a_text_of_several_windows_counts_in_part_while_they_are_computed(engine_of: EngineOf) -> None:
    second = Gate()
    calls = itertools.count(1)

    def on_compute(texts: list[str]) -> None:
        if next(calls) == 2:
            second(texts)

    backend = FakeBackend(on_compute, budget=Budget(tokens=100, rows=1), limit_tokens=10)
    engine = engine_of(lambda spec: backend)
    ticket = engine.submit(spec_of(), [(1, "word " * 40)])
    assert second.reached.wait(WAIT_S)
    assert 0 < ticket.computed < 0.5
    second.open.set()
    assert ticket.wait(WAIT_S)
    assert len(backend.batches) > 2
    assert ticket.computed == 1


def test_a_drain_finishes_the_batch_on_the_device_and_takes_no_other(engine_of: EngineOf) -> None:
    gate = Gate()
    backend = FakeBackend(gate, budget=Budget(tokens=100, rows=2))
    engine = engine_of(lambda spec: backend)
    ticket = engine.submit(spec_of(), [(n, f"text {n}") for n in range(6)])
    assert gate.reached.wait(WAIT_S)
    draining = threading.Thread(target=engine.drain)
    draining.start()
    until(lambda: engine._models.stopping, "the drain has begun")
    gate.open.set()
    draining.join(WAIT_S)
    assert ticket.wait(0)
    assert not ticket.complete
    assert [outcome.content_id for outcome in ticket.finished()] == [0, 1]
    assert len(backend.batches) == 1
    with pytest.raises(EngineStopped):
        engine.submit(spec_of(), [(7, "late")])


def test_a_model_that_is_held_makes_no_room_for_another(engine_of: EngineOf) -> None:
    opened: list[Spec] = []

    def open_backend(spec: Spec) -> FakeBackend:
        opened.append(spec)
        return FakeBackend()

    held, waiting_spec = spec_of("1"), spec_of("2")
    engine = engine_of(open_backend, max_specs=1)
    waiting = threading.Thread(target=engine.open, args=(waiting_spec,))
    with engine.hold(held):
        waiting.start()
        until(engine._models._opening.locked, "the other spec waits for room")
        assert engine.submit(held, [(0, "text")]).wait(WAIT_S)
        assert opened == [held]
    waiting.join(WAIT_S)
    assert opened == [held, waiting_spec]


def test_two_specs_take_turns_and_both_finish(engine_of: EngineOf) -> None:
    backends: dict[str, FakeBackend] = {}
    gate = Gate()

    def open_one(spec: Spec) -> FakeBackend:
        backends[spec.model] = FakeBackend(gate, budget=Budget(tokens=100, rows=1))
        return backends[spec.model]

    engine = engine_of(open_one, turn_s=0.0)
    tickets = [engine.submit(spec_of(model), [(n, f"{model} {n}") for n in range(5)]) for model in "ab"]
    gate.open.set()
    assert all(ticket.wait(WAIT_S) for ticket in tickets)
    assert all(len(backend.batches) == 5 for backend in backends.values())


def test_an_idle_model_leaves_for_another_and_comes_back(engine_of: EngineOf) -> None:
    opened: list[tuple[str, FakeBackend]] = []

    def open_one(spec: Spec) -> FakeBackend:
        opened.append((spec.model, FakeBackend()))
        return opened[-1][1]

    engine = engine_of(open_one, max_specs=1)
    for model in "aba":
        assert engine.submit(spec_of(model), [(1, "text")]).wait(WAIT_S)
    assert [model for model, _ in opened] == ["a", "b", "a"]
    assert opened[0][1].closed.is_set()


def test_a_kind_whose_recipe_cannot_be_made_is_refused(engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(spec: Spec, traits: Traits) -> Recipe:
        raise KeyError(spec.model)

    monkeypatch.setattr(kinds, "recipe", broken)
    backend = FakeBackend()
    with pytest.raises(CannotServe, match=r"embed cannot be made: KeyError in test_engine\.py, line \d+\.$"):
        engine_of(lambda _: backend).open(spec_of("a"))
    assert backend.closed.is_set()


def test_a_recipe_that_makes_no_outcome_fails_its_document(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reason_of(outcome: Any) -> str | None:
        monkeypatch.setattr(kinds, "recipe", lambda _spec, _traits: TextOnly(outcome))
        (failed,) = outcomes_of(engine_of(lambda _: FakeBackend()), spec_of("a"), ["text"])
        return failed.reason

    assert reason_of(lambda _: {"words": 1}) == "The recipe returned dict, not an Outcome."
    assert (reason_of(lambda _: 1 / 0) or "").startswith(
        "Joining the windows raised ZeroDivisionError in test_engine.py, line"
    )


class Broken(FakeBackend):
    """A backend that raises after it took windows, where a backend must not raise."""

    takes = True

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        if self.takes:
            source.take(Budget(tokens=100, rows=8))
        raise RuntimeError("broken")


class BrokenAtOnce(Broken):
    """A backend that raises before it takes windows."""

    takes = False


class Forgetful(FakeBackend):
    """A backend that takes windows and returns no outputs."""

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        source.take(Budget(tokens=100, rows=8))
        return iter(())


@pytest.mark.parametrize("kind", [Broken, BrokenAtOnce, Forgetful])
def test_a_broken_backend_fails_documents_and_not_the_device_thread(
    engine_of: EngineOf, kind: type[FakeBackend]
) -> None:
    outcomes = outcomes_of(engine_of(lambda spec: kind()), spec_of(), ["text"] * 20)
    assert [outcome.reason_class for outcome in outcomes] == [Reason.MODEL] * 20


class Slow(FakeBackend):
    """A backend that splits a portion of texts that ends with "last" only after an event. It cannot split "bad"."""

    def __init__(self, event: threading.Event, on_compute: Callable[[list[str]], None] = lambda texts: None) -> None:
        super().__init__(on_compute)
        self.cutting = threading.Event()
        self._event = event

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        if "last" in texts[-1]:
            self.cutting.set()
            assert self._event.wait(WAIT_S)
            if "bad" in texts[-1]:
                raise ValueError
        return super().encode(texts)


def test_a_text_that_the_tokenizer_refuses_fails_alone(engine_of: EngineOf) -> None:
    at_once = threading.Event()
    at_once.set()
    outcomes = outcomes_of(engine_of(lambda spec: Slow(at_once)), spec_of(), ["fine", "bad last"])
    assert [outcome.status for outcome in outcomes] == [Status.DONE, Status.FAILED]


MORE_THAN_A_PORTION = [(number, "word") for number in range(PORTION_TEXTS)]


def test_the_device_computes_a_shards_first_texts_while_the_others_are_cut(engine_of: EngineOf) -> None:
    computed = threading.Event()
    engine = engine_of(lambda spec: Slow(computed, lambda texts: computed.set()))
    outcomes = outcomes_of(engine, spec_of(), [*["word"] * PORTION_TEXTS, "last"])
    assert [outcome.status for outcome in outcomes] == [Status.DONE] * (PORTION_TEXTS + 1)


def test_a_drain_while_a_shard_is_cut_keeps_what_is_computed_of_it(engine_of: EngineOf) -> None:
    drained, computed = threading.Event(), threading.Event()
    backend = Slow(drained, lambda texts: computed.set())
    engine = engine_of(lambda spec: backend)
    tickets: list[Ticket] = []
    texts = [*MORE_THAN_A_PORTION, (99, "last"), *MORE_THAN_A_PORTION]
    texts[2 * PORTION_TEXTS - 1] = (98, "last too")
    thread = threading.Thread(target=lambda: tickets.append(engine.submit(spec_of(), texts)))
    thread.start()
    assert backend.cutting.wait(WAIT_S)
    assert computed.wait(WAIT_S)
    engine.drain()
    drained.set()
    thread.join(WAIT_S)
    [ticket] = tickets
    assert ticket.wait(WAIT_S)
    assert not ticket.complete
    assert 0 < len(ticket.finished()) <= PORTION_TEXTS


def test_a_shard_that_is_cut_while_its_models_server_goes_away_is_given_back(engine_of: EngineOf) -> None:
    withdrawn = threading.Event()
    backend = Slow(withdrawn)
    engine = engine_of(lambda spec: backend)
    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(engine.submit, spec_of(), [(1, "last")])
        assert backend.cutting.wait(WAIT_S)
        loaded = engine._models.loaded(spec_of())
        assert loaded is not None
        engine._models.withdraw(loaded, ServerAway("no answer"))
        withdrawn.set()
        with pytest.raises(EngineStopped):
            submitting.result(WAIT_S)


def test_a_shard_of_texts_that_cannot_be_cut_lets_its_model_leave(engine_of: EngineOf) -> None:
    at_once = threading.Event()
    at_once.set()
    first = Slow(at_once)
    engine = engine_of(lambda spec: first if spec.model == "fake" else FakeBackend(), max_specs=1)
    ticket = engine.submit(spec_of(), [(number, "bad last") for number in range(PORTION_TEXTS + 1)])
    assert ticket.complete
    assert {outcome.status for outcome in ticket.finished()} == {Status.FAILED}
    engine.open(spec_of("another"))
    assert first.closed.is_set()


def test_batches_are_reported_and_counted_even_if_the_listener_fails(engine_of: EngineOf) -> None:
    seconds: list[float | None] = []

    def listen(batch: Batch) -> None:
        seconds.append(batch.seconds)
        raise RuntimeError

    engine = engine_of(lambda spec: FakeBackend(), on_batch=listen)
    assert engine.submit(spec_of(), [(n, "two words") for n in range(16)]).wait(WAIT_S)
    engine.drain()
    assert [duration is None for duration in seconds] == [True, False, True, False]
    counters = engine.counters
    assert (counters.batches, counters.tokens_in, counters.padded_tokens) == (2, 32, 32)
    assert counters.busy_s == pytest.approx(sum(filter(None, seconds)))


@pytest.mark.parametrize("error", [DeviceLost, SystemExit])
def test_a_device_thread_that_dies_wakes_every_ticket_and_blames_no_document(error: type[BaseException]) -> None:
    def die(texts: list[str]) -> None:
        raise error

    engine = Engine(lambda spec: FakeBackend(die))
    engine.start()
    ticket = engine.submit(spec_of(), [(1, "one"), (2, "two")])
    assert ticket.wait(WAIT_S)
    assert ticket.finished() == []
    assert isinstance(engine.error, error)
    with pytest.raises(EngineStopped):
        engine.submit(spec_of(), [(1, "text")])
    engine.close()
