"""A backend that fails as `tests.fault_points` says: at a batch, or on a text with the marker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from docmill.tasks.backends import Backend, WindowSource
from docmill.tasks.batching import Budget, Item
from docmill.tasks.kinds.base import Traits
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded
from tests.fault_points import MARKER, Armed


@dataclass(frozen=True, slots=True)
class Marked(Encoded):
    """A window whose text has the marker."""


class FaultyBackend:
    """Wraps a backend, and injects the faults that need to see its batches."""

    def __init__(self, inner: Backend, armed: Armed) -> None:
        self._inner = inner
        self._armed = armed

    @property
    def traits(self) -> Traits:
        return self._inner.traits

    @property
    def limit_tokens(self) -> int:
        return self._inner.limit_tokens

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        if self._armed.point == "cut" and any(MARKER in text for text in texts):
            self._armed.strike()
        encoded = self._inner.encode(texts)
        return [
            Marked(code.tokens, code.features) if MARKER in text else code
            for text, code in zip(texts, encoded, strict=True)
        ]

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        return self._inner.run(Watched(source, self._armed))

    def runtime(self) -> dict[str, Any]:
        return self._inner.runtime()

    def close(self) -> None:
        self._inner.close()


@dataclass
class Watched:
    """A source that fails when it gives a batch, or one with a marked window."""

    source: WindowSource
    armed: Armed

    def take(self, budget: Budget) -> Sequence[Item[Any]]:
        items = self.source.take(budget)
        if items:
            self.armed.reach("batch")
        if self.armed.point == "text" and any(isinstance(item.encoded, Marked) for item in items):
            self.armed.strike()
        return items
