"""The choice between several backends for an encoder-only model: measured once, remembered, and left on bad numbers.

Libraries differ in what they make of a processor: where one is ahead of another by a third, it is behind on the
next. Measuring takes seconds, which a few texts never save. The rule solves the ski rental problem (Karlin et al.
1988, "Competitive snoopy caching"): once the preferred backend has lost about as much time as a measurement takes,
all are measured. For any number of texts, the loss is at most twice that of the best choice in hindsight.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import Assignment, Backend, WindowSource, machine, registry
from docmill.tasks.backends.machine import remember, remembered
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.errors import CannotServe, ModelError, Unsuited
from docmill.tasks.outputs import Labels, Output, SpanScores, TokenScores, Vector, Weights
from docmill.tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")

CLEARLY = 1.05
# A measurement costs about as much as 60,000 tokens of a small model: imports, openings, and 32,768 tokens to try
# sizes and backends. The other backend saves an eighth of the time or so, hence eight times as many.
ENOUGH_TOKENS = 500_000
_OUT = "not_finite"
_SIGN_OF_LIFE = Budget(tokens=1, rows=0)


class TimedBackend(Protocol):
    """A backend that can say how fast it is here."""

    def tokens_per_s(self) -> float: ...

    def close(self) -> None: ...


Opened = TypeVar("Opened", bound=TimedBackend)


class Contest:
    """The backends that can compute a spec. The fastest one does, once there is enough work to measure them."""

    def __init__(self, names: Sequence[str], open_backend: Callable[..., Any], assignment: Assignment) -> None:
        self._open_backend = open_backend
        self._assignment = assignment
        self._notes = assignment.cache_dir / "backends"
        self._subject = subject(assignment.spec, assignment.device, names, assignment.cache_dir)
        self._measured = remembered(self._notes, self._subject).get("fastest") in names
        self._names = left(names, self._notes, self._subject)

    def open(self, *, provisional: bool) -> Backend:
        """Return the fastest backend if it is known; else a provisional one, or measure all backends now."""
        on_cpu = self._assignment.device == registry.CPU
        if self._measured or len(self._names) == 1 or not (provisional and on_cpu):
            return self._fastest()
        try:
            first = self._first()
        except Unsuited as error:
            log.info("backend_unsuited backend=%s spec=%s reason=%s", self._names[0], self._assignment.spec, error)
            self._names = self._names[1:]
            return self._fastest()
        return ProvisionalBackend(first, self._fastest, self._first)

    def _first(self) -> Backend:
        """Return the preferred backend, with batches of the usual size unless another was measured."""
        name = self._names[0]
        return self._guarded(self._open_backend(name, replace(self._assignment, tuned=False)), name)

    def _fastest(self) -> Backend:
        last = ""

        def open_next(name: str) -> Any:
            nonlocal last
            last = name
            return self._open_backend(name)

        ahead = fastest(self._names, open_next, self._notes, self._subject)
        return self._guarded(ahead, last)

    def _guarded(self, backend: Backend, name: str) -> Backend:
        """Return a backend that changes to the model's own code once an output is not finite."""
        if name == registry.OWN_CODE or registry.OWN_CODE not in self._names:
            return backend
        taken_out = partial(leave_out, self._notes, self._subject, name)
        return FallbackBackend(backend, partial(self._open_backend, registry.OWN_CODE), taken_out)


def subject(spec: Spec, device: str, names: Sequence[str], cache_dir: Path) -> str:
    """Return the name of what a measurement holds for: the weights, the precision, the device and the libraries."""
    name, threads = machine.describe_device(device, cache_dir)
    libraries = " ".join(f"{name} {version(registry.row(name).library)}" for name in sorted(names))
    return f"{spec.revision} {spec.quality} {name} {threads} {libraries}"


def fastest(names: Sequence[str], open_backend: Callable[[str], Opened], folder: Path, subject: str) -> Opened:
    """Return the fastest of the backends, opened: the first, unless another is clearly ahead of those before it.

    The folder keeps the measurement of the ``subject`` (model, precision, device). One backend at a time is open,
    since a model may fill the memory. Those that were left out are not opened.

    Raises Unsuited where none takes the model.
    """
    note = remembered(folder, subject)
    out = note.get(_OUT, [])
    names = left(names, folder, subject)
    known: str | None = note.get("fastest")
    ordered = sorted(names, key=lambda name: name != known)  # it keeps the order of the others
    rates: dict[str, float] = {}
    reason: Unsuited | None = None
    backend: Opened | None = None
    for name in ordered:
        if backend is not None:
            backend.close()
            backend = None
        try:
            backend = open_backend(name)
        except Unsuited as error:
            log.info("backend_unsuited backend=%s reason=%s subject=%s", name, error, subject)
            reason = error
            continue
        if name == known:
            return backend
        rates[name] = round(backend.tokens_per_s(), 1)
    if not rates:
        assert reason is not None
        raise reason
    ahead = best(rates)
    log.info("backend_measured fastest=%s tokens_per_s=%s subject=%s", ahead, rates, subject)
    remember(folder, subject, {"fastest": ahead, "tokens_per_s": rates} | ({_OUT: out} if out else {}))
    if backend is not None and ahead == [*rates][-1]:
        return backend
    if backend is not None:
        backend.close()
    return open_backend(ahead)


def left(names: Sequence[str], folder: Path, subject: str) -> Sequence[str]:
    """Return the backends that were not left out for the ``subject``; all of them if all were."""
    out = remembered(folder, subject).get(_OUT, [])
    return [name for name in names if name not in out] or names


def first(names: Sequence[str], folder: Path, subject: str) -> str:
    """Return the backend to open first: the fastest where it is known, else the preferred one."""
    usable = left(names, folder, subject)
    known: str | None = remembered(folder, subject).get("fastest")
    return known if known is not None and known in usable else usable[0]


def leave_out(folder: Path, subject: str, name: str) -> None:
    """Note that a backend gave NaN or an infinity: it is not used for the ``subject`` any more on this machine."""
    note = remembered(folder, subject)
    remember(folder, subject, {**note, _OUT: sorted({*note.get(_OUT, []), name})})


def best(rates: dict[str, float]) -> str:
    """Return the first, unless another is clearly ahead of it."""
    ahead, *others = rates
    for name in others:
        if rates[name] >= rates[ahead] * CLEARLY:
            ahead = name
    return ahead


class ProvisionalBackend:
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
        self._backend = first
        self._measured = measured
        self._again = again
        self._left = enough
        self.traits = first.traits
        self.limit_tokens = first.limit_tokens

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._backend.encode(texts)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        if self._left > 0:
            counted = _Counted(source, self._left)
            yield from self._backend.run(counted)
            self._left = counted.left
            if self._left > 0:
                return
            source.take(_SIGN_OF_LIFE)
            self._change()
            source.take(_SIGN_OF_LIFE)
        yield from self._backend.run(source)

    def runtime(self) -> dict[str, Any]:
        return self._backend.runtime()

    def close(self) -> None:
        self._backend.close()

    def _change(self) -> None:
        self._backend.close()
        try:
            self._backend = self._measured()
        except Exception as error:  # whatever libraries raise; the first one did compute
            log.error("backends_not_measured error=%r", error)
            self._backend = self._again()


class _Counted:
    """A source that ends once windows of ``left`` tokens were taken."""

    def __init__(self, source: WindowSource, left: int) -> None:
        self._source = source
        self.left = left

    def take(self, budget: Budget) -> Sequence[Item[Any]]:
        if self.left <= 0:
            return []
        items = self._source.take(budget)
        self.left -= sum(item.tokens for item in items)
        return items


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
