"""A backend that fails as `tests.fault_points` says: at a batch, or on a text with the marker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from docmill.tasks.backends import Backend, WindowSource
from docmill.tasks.backends.static import StaticLoop
from docmill.tasks.batching import Budget, Item
from docmill.tasks.errors import OutOfMemory
from docmill.tasks.kinds.base import Traits
from docmill.tasks.outputs import Output, Vector
from docmill.tasks.windows.windows import Encoded
from tests.fault_points import MARKER, Armed

Items = Sequence[Item[Any]]
ILLEGAL_ACCESS = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"
WHOLE_BATCH = Budget(tokens=1_000_000, rows=1_000)


@dataclass(frozen=True, slots=True)
class Marked(Encoded):
    """A window whose text has the marker."""


class FaultyBackend:
    """Wraps a backend, and injects the faults that need to see its batches."""

    def __init__(self, inner: Backend, armed: Armed) -> None:
        self._inner = inner
        self._armed = armed
        self._loop = StaticLoop(self._compute, WHOLE_BATCH)

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
        if self._armed.action in {"oom", "cuda"}:
            return self._loop.run(source)
        return self._run(source)

    def _run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        watched = Watched(source, self._armed)
        for number, output in self._inner.run(watched):
            if self._armed.action == "nan" and number in watched.marked and isinstance(output, Vector):
                self._armed.note()
                yield number, Vector(np.full_like(output.values, np.nan))
            else:
                yield number, output

    def _compute(self, batch: Items) -> Sequence[Output]:
        if self._armed.action == "cuda":
            self._launch(batch)
        elif len(batch) * max(item.tokens for item in batch) > self._armed.n:
            self._armed.note()
            raise OutOfMemory
        outputs = dict(self._inner.run(Once(batch)))
        return [outputs[item.id] for item in batch]

    def _launch(self, batch: Items) -> None:
        """Raise what torch raises once a kernel has failed in this process, as a backend does that uses torch."""
        self._armed.reach("batch")
        if self._armed.point == "text" and any(isinstance(item.encoded, Marked) for item in batch):
            self._armed.strike()
        if self._armed.is_device_broken:
            import torch

            from docmill.tasks.backends.accelerator import memory_errors

            with memory_errors("cuda:0"):
                raise torch.AcceleratorError(ILLEGAL_ACCESS)

    def runtime(self) -> dict[str, Any]:
        return self._inner.runtime()

    def close(self) -> None:
        self._inner.close()


@dataclass
class Watched:
    """A source that fails when it gives a batch, or one with a marked window."""

    source: WindowSource
    armed: Armed
    marked: set[int] = field(default_factory=set)

    def take(self, budget: Budget) -> Items:
        items = self.source.take(budget)
        marked = {item.id for item in items if isinstance(item.encoded, Marked)}
        self.marked |= marked
        if items:
            self.armed.reach("batch")
        if marked and self.armed.point == "text" and self.armed.action != "nan":
            self.armed.strike()
        return items


@dataclass
class Once:
    """A source of one batch."""

    batch: Items

    def take(self, budget: Budget) -> Items:
        batch, self.batch = self.batch, ()
        return batch
