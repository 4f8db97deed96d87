"""Leave a backend whose numbers are not finite: the model's own code computes from then on, also later.

Libraries differ in what they make of a model and a processor. The note of a backend that was left holds for the
weights, the precision, the device and the libraries.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from docmill.tasks.backends import Assignment, Backend, WindowSource, machine, registry
from docmill.tasks.backends.machine import remember, remembered
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.errors import CannotServe, ModelError
from docmill.tasks.outputs import Labels, Output, SpanScores, TokenScores, Vector, Weights
from docmill.tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")

_OUT = "not_finite"
_SIGN_OF_LIFE = Budget(tokens=1, rows=0)


def left(assignment: Assignment, names: Sequence[str]) -> Sequence[str]:
    """Return the backends that were not left out for a spec on a device; all of them if all were."""
    out = remembered(_folder(assignment), _subject(assignment, names)).get(_OUT, [])
    return [name for name in names if name not in out] or names


def leave_out(assignment: Assignment, names: Sequence[str], name: str) -> None:
    """Note that one of these backends gave NaN or an infinity: it computes the spec here no more."""
    folder, subject = _folder(assignment), _subject(assignment, names)
    out = remembered(folder, subject).get(_OUT, [])
    remember(folder, subject, {_OUT: sorted({*out, name})})


def _folder(assignment: Assignment) -> Path:
    return assignment.cache_dir / "backends"


def _subject(assignment: Assignment, names: Sequence[str]) -> str:
    """Return the name of what a note holds for: the weights, the precision, the device and the libraries."""
    device = machine.describe_device(assignment.device, assignment.cache_dir)
    libraries = " ".join(f"{name} {version(registry.row(name).library)}" for name in sorted(names))
    return f"{assignment.spec.revision} {assignment.spec.quality} {device} {libraries}"


class FallbackBackend:
    """Computes with ``first`` until one of its outputs is not finite, and with what ``second`` opens from then on.

    Windows whose outputs were not finite are computed again; both must read texts alike. ``taken_out`` is called when
    the second gives finite numbers where the first did not. Outputs that are not finite with the second either are
    the model's own, and given on.
    """

    def __init__(
        self, first: Backend, second: Callable[[], Backend], taken_out: Callable[[], None] = lambda: None
    ) -> None:
        self._backend = first
        self._second: Callable[[], Backend] | None = second
        self._taken_out = taken_out
        self.traits = first.traits

    @property
    def limit_tokens(self) -> int:
        return self._backend.limit_tokens

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._backend.encode(texts)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        if self._second is None:
            yield from self._backend.run(source)
            return
        watched = _Watched(source)
        for number, output in self._backend.run(watched):
            item = watched.flight.pop(number)
            if finite(output):
                yield number, output
            else:
                watched.lost.append((item, output))
        if not watched.lost:
            return
        source.take(_SIGN_OF_LIFE)
        if self._went_over(len(watched.lost)):
            source.take(_SIGN_OF_LIFE)
            yield from self._again([item for item, _ in watched.lost])
        else:
            yield from ((item.id, output) for item, output in watched.lost)
        yield from self._backend.run(source)

    def runtime(self) -> dict[str, Any]:
        return self._backend.runtime()

    def close(self) -> None:
        self._backend.close()

    def _went_over(self, n_windows: int) -> bool:
        """Change to the second backend. Return False if it does not open; then the first one goes on alone."""
        second, self._second = self._second, None
        assert second is not None
        first = self._backend
        log.error("backend_taken_out backend=%s not_finite=%d", first.runtime()["backend"], n_windows)
        try:
            self._backend = second()
        except (CannotServe, ModelError) as error:
            log.error("backend_not_replaced reason=%r", str(error))
            return False
        first.close()
        return True

    def _again(self, lost: Sequence[Item[Any]]) -> Iterator[tuple[int, Output]]:
        waiting: Pool[Any] = Pool()
        waiting.add(sorted(lost, key=lambda item: item.id))
        repaired = False
        for number, output in self._backend.run(waiting):
            if not repaired and finite(output):
                repaired = True
                self._taken_out()  # before anyone hears of the outputs
            yield number, output


class _Watched:
    """A source that remembers the items that it gave. Once one of them was lost it gives no more."""

    def __init__(self, source: WindowSource) -> None:
        self._source = source
        self.flight: dict[int, Item[Any]] = {}
        self.lost: list[tuple[Item[Any], Output]] = []

    def take(self, budget: Budget) -> Sequence[Item[Any]]:
        if self.lost:
            return []
        items = self._source.take(budget)
        self.flight.update((item.id, item) for item in items)
        return items


def finite(output: Output) -> bool:
    """Return False for a vector or scores with NaN or an infinity in them; True for any other output."""
    if isinstance(output, Labels):
        return all(math.isfinite(score) for score in output.scores.values())
    if isinstance(output, TokenScores):
        return bool(np.isfinite(output.scores).all())
    if isinstance(output, SpanScores):
        return output.finite
    return not isinstance(output, Vector | Weights) or bool(np.isfinite(output.values).all())
