"""The choice between several backends for an encoder-only model: measured once, remembered, and left on bad numbers.

Libraries differ in what they make of a processor: where one is ahead of another by a third, it is behind on the
next. Measuring takes seconds, which a few texts never save. The rule solves the ski rental problem (Karlin et al.
1988, "Competitive snoopy caching"): once the preferred backend has lost about as much time as a measurement takes,
all are measured. For any number of texts, the loss is at most twice that of the best choice in hindsight.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from docmill.tasks.backends import Assignment, Backend, WindowSource, machine, registry
from docmill.tasks.backends.encoder.batches import best
from docmill.tasks.backends.machine import remember, remembered
from docmill.tasks.backends.static import Items
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.errors import Unsuited
from docmill.tasks.outputs import Labels, Output, SpanScores, TokenScores, Vector, Weights
from docmill.tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")

# A measurement costs about as much as 60,000 tokens of a small model: imports, openings, and 32,768 tokens to try
# sizes and backends. The other backend saves an eighth of the time or so, hence eight times as many.
ENOUGH_TOKENS = 500_000
_OUT = "not_finite"
_SIGN_OF_LIFE = Budget(tokens=1, rows=0)


# Opens a backend by name. Measures a batch size unless ``tuned`` is False. The backend also has ``tokens_per_s``.
OpenByName = Callable[..., Any]


@dataclass(frozen=True)
class Contest:
    """The backends that can compute a ``subject``. With enough work, docmill measures them and uses the fastest.

    The folder keeps the measurements, and the names of backends that returned NaN or infinity.
    """

    names: Sequence[str]
    folder: Path
    subject: str

    @classmethod
    def of(cls, names: Sequence[str], assignment: Assignment) -> Contest:
        """Return the contest for an assignment. The subject is its weights, precision, device and libraries."""
        spec, cache_dir = assignment.spec, assignment.cache_dir
        device = machine.describe_device(assignment.device, cache_dir)
        libraries = " ".join(f"{name} {version(registry.row(name).library)}" for name in sorted(names))
        return cls(names, cache_dir / "backends", f"{spec.revision} {spec.quality} {device} {libraries}")

    @property
    def known(self) -> str | None:
        """The fastest backend; None before a measurement."""
        fastest: str | None = remembered(self.folder, self.subject).get("fastest")
        return fastest if fastest in self.names else None

    @property
    def usable(self) -> Sequence[str]:
        """The backends that were not left out; all backends if every one was left out."""
        out = remembered(self.folder, self.subject).get(_OUT, [])
        return [name for name in self.names if name not in out] or self.names

    @property
    def in_order(self) -> Sequence[str]:
        """The usable backends in the order to open them: the fastest if it is known, then the preferred ones."""
        known = self.known
        return sorted(self.usable, key=lambda name: name != known)

    def leave_out(self, name: str) -> None:
        """Leave out a backend that returned NaN or infinity. This machine no longer uses it for the subject."""
        self._remember({_OUT: sorted({*remembered(self.folder, self.subject).get(_OUT, []), name})})

    def _remember(self, facts: Mapping[str, Any]) -> None:
        remember(self.folder, self.subject, {**remembered(self.folder, self.subject), **facts})

    def open(self, open_backend: OpenByName, *, provisional: bool) -> Backend:
        """Open the fastest backend if it is known. Otherwise open a provisional one, or measure all backends now.

        The provisional backend is the preferred one. Its batches have the usual size unless another was measured.
        """
        preferred, *others = self.usable
        if self.known is not None or not others or not provisional:
            return self._open_fastest(open_backend)

        def open_first() -> Backend:
            return self._guarded(open_backend(preferred, tuned=False), preferred, open_backend)

        try:
            first = open_first()
        except Unsuited as error:
            log.info("backend_unsuited backend=%s reason=%s subject=%s", preferred, error, self.subject)
            return replace(self, names=others)._open_fastest(open_backend)
        return ProvisionalBackend(first, partial(self._open_fastest, open_backend), open_first)

    def fastest(self, open_backend: OpenByName) -> tuple[str, Any]:
        """Open the fastest backend: the first, unless another is clearly ahead. Return its name and the backend.

        Only one backend is open at a time, since a model may fill the memory. Backends that were left out stay
        closed. Raises Unsuited if no backend takes the model.
        """
        known, rates = self.known, dict[str, float]()
        reason: Unsuited | None = None
        backend: Any = None
        for name in self.in_order:
            if backend is not None:
                backend.close()
                backend = None
            try:
                backend = open_backend(name)
            except Unsuited as error:
                log.info("backend_unsuited backend=%s reason=%s subject=%s", name, error, self.subject)
                reason = error
                continue
            if name == known:
                return name, backend
            rates[name] = round(backend.tokens_per_s(), 1)
        if not rates:
            assert reason is not None
            raise reason
        ahead = best(rates)
        log.info("backend_measured fastest=%s tokens_per_s=%s subject=%s", ahead, rates, self.subject)
        self._remember({"fastest": ahead, "tokens_per_s": rates})
        if backend is not None and ahead == [*rates][-1]:
            return ahead, backend
        if backend is not None:
            backend.close()
        return ahead, open_backend(ahead)

    def _open_fastest(self, open_backend: OpenByName) -> Backend:
        name, backend = self.fastest(open_backend)
        return self._guarded(backend, name, open_backend)

    def _guarded(self, backend: Backend, name: str, open_backend: OpenByName) -> Backend:
        """Return a backend that switches to the model's own code once an output is not finite."""
        if name == registry.OWN_CODE or registry.OWN_CODE not in self.usable:
            return backend
        return FallbackBackend(backend, partial(open_backend, registry.OWN_CODE), partial(self.leave_out, name))


class _Tap:
    """A source that gives what another gives until it ``is_shut``; ``note`` sees the items first."""

    def __init__(self, source: WindowSource, is_shut: Callable[[], bool], note: Callable[[Items], None]) -> None:
        self._source = source
        self._is_shut = is_shut
        self._note = note

    def take(self, budget: Budget) -> Items:
        items = [] if self._is_shut() else self._source.take(budget)
        self._note(items)
        return items


class SwitchingBackend:
    """A backend that computes with another backend, and may switch to a different one."""

    def __init__(self, first: Backend) -> None:
        self._backend = first
        self.traits = first.traits

    @property
    def limit_tokens(self) -> int:
        return self._backend.limit_tokens

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._backend.encode(texts)

    def runtime(self) -> dict[str, Any]:
        return self._backend.runtime()

    def close(self) -> None:
        self._backend.close()


class ProvisionalBackend(SwitchingBackend):
    """Computes ``enough`` tokens with ``first``, and the rest with what ``measured`` opens.

    Both must encode texts alike. ``first`` is closed before the others are opened, since a model may fill the memory;
    it still encodes texts meanwhile. If the others cannot be opened, ``again`` opens the first one again.
    """

    def __init__(
        self,
        first: Backend,
        measured: Callable[[], Backend],
        again: Callable[[], Backend],
        *,
        enough: int = ENOUGH_TOKENS,
    ) -> None:
        super().__init__(first)
        self._measured = measured
        self._again = again
        self._left = enough

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        if self._left > 0:
            yield from self._backend.run(_Tap(source, lambda: self._left <= 0, self._count))
            if self._left > 0:
                return
            source.take(_SIGN_OF_LIFE)
            self._change()
            source.take(_SIGN_OF_LIFE)
        yield from self._backend.run(source)

    def _count(self, items: Items) -> None:
        self._left -= sum(item.tokens for item in items)

    def _change(self) -> None:
        self._backend.close()
        try:
            self._backend = self._measured()
        except Exception as error:  # whatever libraries raise; the first one did compute
            log.error("backends_not_measured error=%r", error)
            self._backend = self._again()


class FallbackBackend(SwitchingBackend):
    """Computes with ``first`` until one of its outputs is not finite, and with what ``second`` opens from then on.

    Windows whose outputs were not finite are computed again; both must read texts alike. ``taken_out`` is called when
    the second gives finite numbers where the first did not. Outputs that are not finite with the second either are
    the model's own, and given on.
    """

    def __init__(
        self, first: Backend, second: Callable[[], Backend], taken_out: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(first)
        self._second: Callable[[], Backend] | None = second
        self._taken_out = taken_out

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        if self._second is None:
            yield from self._backend.run(source)
            return
        flight: dict[int, Item[Any]] = {}
        lost: list[tuple[Item[Any], Output]] = []

        def note(items: Items) -> None:
            flight.update((item.id, item) for item in items)

        for number, output in self._backend.run(_Tap(source, lambda: bool(lost), note)):
            item = flight.pop(number)
            if finite(output):
                yield number, output
            else:
                lost.append((item, output))
        if not lost:
            return
        source.take(_SIGN_OF_LIFE)
        if self._went_over(len(lost)):
            source.take(_SIGN_OF_LIFE)
            yield from self._again([item for item, _ in lost])
        else:
            yield from ((item.id, output) for item, output in lost)
        yield from self._backend.run(source)

    def _went_over(self, n_windows: int) -> bool:
        """Change to the second backend. Return False if it does not open; then the first one goes on alone."""
        second, self._second = self._second, None
        assert second is not None
        first = self._backend
        log.error("backend_taken_out backend=%s not_finite=%d", first.runtime()["backend"], n_windows)
        try:
            self._backend = second()
        except Exception as error:  # whatever libraries raise; the first one goes on
            log.error("backend_not_replaced error=%r", error)
            return False
        first.close()
        return True

    def _again(self, lost: Items) -> Iterator[tuple[int, Output]]:
        waiting: Pool[Any] = Pool()
        waiting.add(sorted(lost, key=lambda item: item.id))
        repaired = False
        for number, output in self._backend.run(waiting):
            if not repaired and finite(output):
                repaired = True
                self._taken_out()  # before anyone hears of the outputs
            yield number, output


def finite(output: Output) -> bool:
    """Return False for a vector or scores with NaN or an infinity in them; True for any other output."""
    if isinstance(output, Labels):
        return all(math.isfinite(score) for score in output.scores.values())
    if isinstance(output, TokenScores):
        return bool(np.isfinite(output.scores).all())
    if isinstance(output, SpanScores):
        return output.finite
    return not isinstance(output, Vector | Weights) or bool(np.isfinite(output.values).all())
