"""Compute one text as the engine computes any, and keep the output of each of its windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.core.outcomes import Outcome, storable
from storage.core.specs import Spec
from tasks.backends import Backend, Source
from tasks.batching.batches import Budget
from tasks.batching.pool import Item
from tasks.engine.engine import Engine
from tasks.errors import EngineStopped
from tasks.kinds.base import Traits
from tasks.outputs import Output
from tasks.windows.windows import Encoded, Window


@dataclass(frozen=True)
class ComputedWindow:
    """A window of a round of a text, with what the model made of it; None for one that was copied.

    ``round`` counts from 1, and ``text`` is the window's stretch of that round's text.
    """

    round: int
    window: Window
    text: str
    output: Output | None


@dataclass(frozen=True)
class Computation:
    """The outcome of a text as it would be stored, its windows round by round, and what computed it in how long."""

    outcome: Outcome
    windows: tuple[ComputedWindow, ...]
    runtime: Mapping[str, Any]
    seconds: float


def compute(open_one: Callable[[Spec], Backend], spec: Spec, text: str) -> Computation:
    """Compute a text under a spec, in an engine of its own. Raises CannotServe, and what the device died of."""
    kept = Kept()
    engine = Engine(lambda wanted: Recorder(open_one(wanted), kept), max_specs=1)
    engine.start()
    try:
        engine.open(spec)
        began = time.monotonic()
        ticket = engine.submit(spec, [(0, text)])
        ticket.wait()
        seconds = time.monotonic() - began
        if not ticket.complete:
            raise engine.error or EngineStopped()
        (outcome,) = ticket.finished()
        return Computation(storable(outcome), kept.windows(), engine.runtime(spec), seconds)
    finally:
        engine.close()


@dataclass
class Kept:
    """The windows of the rounds of one text, and their outputs by round and place."""

    rounds: dict[int, tuple[str, Sequence[Window]]] = field(default_factory=dict)
    outputs: dict[tuple[int, int], Output] = field(default_factory=dict)

    def windows(self) -> tuple[ComputedWindow, ...]:
        """Return all windows in their order, the copied ones too."""
        return tuple(
            ComputedWindow(number, window, text[window.start : window.end], self.outputs.get((number, place)))
            for number, (text, windows) in sorted(self.rounds.items())
            for place, window in enumerate(windows)
        )


class Recorder:
    """A backend that keeps the windows that it is given, and the outputs that it gives."""

    def __init__(self, backend: Backend, kept: Kept) -> None:
        self._backend = backend
        self._kept = kept

    @property
    def traits(self) -> Traits:
        return self._backend.traits

    @property
    def limit_tokens(self) -> int:
        return self._backend.limit_tokens

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._backend.encode(texts)

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        places: dict[int, tuple[int, int]] = {}
        for number, output in self._backend.run(_Noting(source, self._kept, places)):
            self._kept.outputs[places[number]] = output
            yield number, output

    def runtime(self) -> dict[str, Any]:
        return self._backend.runtime()

    def close(self) -> None:
        self._backend.close()


@dataclass(frozen=True)
class _Noting:
    """A source that notes which window of which round has which number."""

    source: Source
    kept: Kept
    places: dict[int, tuple[int, int]]

    def take(self, budget: Budget) -> Sequence[Item[Any]]:
        items = self.source.take(budget)
        for item in items:
            document, place = item.owner
            self.kept.rounds[document.round] = (document.text, document.windows)
            self.places[item.id] = (document.round, place)
        return items
