"""A backend computes until there was enough work for a measurement, and the measured one from then on."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from docmill.storage.core.outcomes import Status
from docmill.tasks.backends.encoder.provisional import ProvisionalBackend
from tests.tasks.conftest import EngineOf
from tests.tasks.fakes import FakeBackend, spec_of

TEXTS = ["one", "two words", "three", "four", "five"]


class Measured(FakeBackend):
    """The backend that a measurement chose."""

    def runtime(self) -> dict[str, Any]:
        return {**super().runtime(), "backend": "measured"}


def refused() -> Any:
    raise AssertionError("opened without need")


def test_a_few_texts_are_computed_without_a_measurement(engine_of: EngineOf) -> None:
    first = FakeBackend()
    backend = ProvisionalBackend(first, refused, refused, enough=1000)
    ticket = engine_of(lambda _: backend).submit(spec_of(), list(enumerate(TEXTS)))
    assert ticket.wait(60)
    assert [outcome.status for outcome in ticket.finished()] == [Status.DONE] * len(TEXTS)
    assert sum(map(len, first.batches)) == len(TEXTS)
    assert not first.closed.is_set()


def test_once_there_was_enough_work_the_measured_backend_computes_the_rest(engine_of: EngineOf) -> None:
    first, chosen = FakeBackend(), Measured()
    opened: list[str] = []

    def measured() -> Measured:
        assert first.closed.is_set(), "two models at once may be too many for the memory"
        opened.append("measured")
        return chosen

    backend = ProvisionalBackend(first, measured, refused, enough=8)
    engine = engine_of(lambda _: backend)
    for _ in range(3):
        ticket = engine.submit(spec_of(), list(enumerate(TEXTS)))
        assert ticket.wait(60)
        assert [outcome.status for outcome in ticket.finished()] == [Status.DONE] * len(TEXTS)
    assert opened == ["measured"]
    assert sum(map(len, first.batches)) + sum(map(len, chosen.batches)) == 3 * len(TEXTS)
    assert chosen.batches
    assert engine.runtime(spec_of())["backend"] == "measured"
    assert not chosen.closed.is_set()


def test_where_nothing_can_be_measured_the_first_goes_on(
    engine_of: EngineOf, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> Any:
        raise MemoryError

    again = FakeBackend()
    backend = ProvisionalBackend(FakeBackend(), fails, lambda: again, enough=1)
    engine = engine_of(lambda _: backend)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            ticket = engine.submit(spec_of(), list(enumerate(TEXTS)))
            assert ticket.wait(60)
            assert [outcome.status for outcome in ticket.finished()] == [Status.DONE] * len(TEXTS)
    assert again.batches
    assert caplog.text.count("backends_not_measured error=MemoryError()") == 1
