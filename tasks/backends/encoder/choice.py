"""The choice between several backends for an encoder-only model: measure them once, and remember the fastest.

Which library is faster depends on the processor. A measurement takes seconds, too long for a few texts. The rule
solves the ski rental problem (Karlin et al. 1988, "Competitive snoopy caching"): once the preferred backend has lost
about as much time as a measurement takes, all backends are measured. For any number of texts, the loss is at most
twice that of the best choice in hindsight.

A backend that returned NaN or infinity is not used again for the same model on this machine.
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

from docmill.tasks.backends import Assignment, Backend, FilteredSource, WindowSource, machine, registry
from docmill.tasks.backends.encoder.batches import best
from docmill.tasks.backends.machine import recall, remember
from docmill.tasks.backends.static import Items
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.errors import Unsuited
from docmill.tasks.outputs import Labels, Output, SpanScores, TokenScores, Vector, Weights
from docmill.tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")

# A measurement costs about as much as 110,000 tokens of a small model: imports, openings, and 60,000 to 100,000 to
# try sizes and backends. The faster backend saves an eighth to a quarter of the time, hence five times as many.
ENOUGH_TOKENS = 500_000
_NOT_FINITE = "not_finite"
_NO_ROWS = Budget(tokens=1, rows=0)  # taking no windows shows the engine that the backend is alive


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
    def known_fastest(self) -> str | None:
        """The fastest backend; None before a measurement."""
        fastest: str | None = recall(self.folder, self.subject).get("fastest")
        return fastest if fastest in self.names else None

    @property
    def usable(self) -> Sequence[str]:
        """The backends that always returned finite numbers; all backends if there is none."""
        excluded = recall(self.folder, self.subject).get(_NOT_FINITE, [])
        return [name for name in self.names if name not in excluded] or self.names

    @property
    def opening_order(self) -> Sequence[str]:
        """The usable backends: the fastest first if it is known, then the preferred ones."""
        fastest = self.known_fastest
        return sorted(self.usable, key=lambda name: name != fastest)

    def exclude(self, name: str) -> None:
        """Note that a backend returned NaN or infinity. This machine no longer uses it for the subject."""
        self._remember({_NOT_FINITE: sorted({*recall(self.folder, self.subject).get(_NOT_FINITE, []), name})})

    def _remember(self, facts: Mapping[str, Any]) -> None:
        remember(self.folder, self.subject, {**recall(self.folder, self.subject), **facts})

    def open(self, open_backend: OpenByName, *, provisional: bool) -> Backend:
        """Open the fastest backend if it is known. Otherwise open a provisional one, or measure all backends now.

        The provisional backend is the preferred one. Its batches have the usual size unless another was measured.
        """
        preferred, *others = self.usable
        if self.known_fastest is not None or not others or not provisional:
            return self._open_guarded(open_backend)

        def open_first() -> Backend:
            return self._guard(open_backend(preferred, tuned=False), preferred, open_backend)

        try:
            first = open_first()
        except Unsuited as error:
            log.info("backend_unsuited backend=%s reason=%s subject=%s", preferred, error, self.subject)
            return replace(self, names=others)._open_guarded(open_backend)
        return ProvisionalBackend(first, partial(self._open_guarded, open_backend), open_first)

    def open_fastest(self, open_backend: OpenByName) -> tuple[str, Any]:
        """Open the fastest backend: the first, unless another is clearly ahead. Return its name and the backend.

        Only one backend is open at a time, since a model may fill the memory. Raises Unsuited if no backend takes the
        model.
        """
        known, rates = self.known_fastest, dict[str, float]()
        reason: Unsuited | None = None
        backend: Any = None
        for name in self.opening_order:
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
        fastest = best(rates)
        log.info("backend_measured fastest=%s tokens_per_s=%s subject=%s", fastest, rates, self.subject)
        self._remember({"fastest": fastest, "tokens_per_s": rates})
        if backend is not None and fastest == [*rates][-1]:
            return fastest, backend
        if backend is not None:
            backend.close()
        return fastest, open_backend(fastest)

    def _open_guarded(self, open_backend: OpenByName) -> Backend:
        name, backend = self.open_fastest(open_backend)
        return self._guard(backend, name, open_backend)

    def _guard(self, backend: Backend, name: str, open_backend: OpenByName) -> Backend:
        """Return a backend that switches to the model's own code after an output that is not finite."""
        if name == registry.OWN_CODE or registry.OWN_CODE not in self.usable:
            return backend
        return FallbackBackend(backend, partial(open_backend, registry.OWN_CODE), partial(self.exclude, name))


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
    """Computes ``enough`` tokens with ``first``, and the rest with the backend that ``open_fastest`` opens.

    Both must encode texts alike. ``first`` is closed before ``open_fastest`` is called, since a model may fill the
    memory; it still encodes texts meanwhile. If ``open_fastest`` fails, ``reopen_first`` is called.
    """

    def __init__(
        self,
        first: Backend,
        open_fastest: Callable[[], Backend],
        reopen_first: Callable[[], Backend],
        *,
        enough: int = ENOUGH_TOKENS,
    ) -> None:
        super().__init__(first)
        self._open_fastest = open_fastest
        self._reopen_first = reopen_first
        self._left = enough

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        def take(budget: Budget) -> Items:
            items = source.take(budget) if self._left > 0 else []
            self._left -= sum(item.tokens for item in items)
            return items

        if self._left > 0:
            yield from self._backend.run(FilteredSource(take))
            if self._left > 0:
                return
            source.take(_NO_ROWS)
            self._switch()
            source.take(_NO_ROWS)
        yield from self._backend.run(source)

    def _switch(self) -> None:
        self._backend.close()
        try:
            self._backend = self._open_fastest()
        except Exception as error:  # whatever libraries raise; the first one did compute
            log.error("backends_not_measured error=%r", error)
            self._backend = self._reopen_first()


class FallbackBackend(SwitchingBackend):
    """Computes with ``first`` until an output is not finite, then with the backend that ``open_second`` opens.

    Both must read texts alike. The second backend computes the windows again whose outputs were not finite. The first
    output that is finite then calls ``on_repair``. An output that is still not finite is the model's own.
    """

    def __init__(
        self, first: Backend, open_second: Callable[[], Backend], on_repair: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(first)
        self._open_second: Callable[[], Backend] | None = open_second
        self._on_repair = on_repair

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        if self._open_second is None:
            yield from self._backend.run(source)
            return
        flight: dict[int, Item[Any]] = {}
        not_finite: list[tuple[Item[Any], Output]] = []

        def take(budget: Budget) -> Items:
            items = [] if not_finite else source.take(budget)
            flight.update((item.id, item) for item in items)
            return items

        for number, output in self._backend.run(FilteredSource(take)):
            item = flight.pop(number)
            if is_finite(output):
                yield number, output
            else:
                not_finite.append((item, output))
        if not not_finite:
            return
        source.take(_NO_ROWS)
        if self._switch(len(not_finite)):
            source.take(_NO_ROWS)
            yield from self._compute_again([item for item, _ in not_finite])
        else:
            yield from ((item.id, output) for item, output in not_finite)
        yield from self._backend.run(source)

    def _switch(self, n_windows: int) -> bool:
        """Switch to the second backend. If it does not open, keep the first one for good and return False."""
        open_second, self._open_second = self._open_second, None
        assert open_second is not None
        first = self._backend
        log.error("backend_taken_out backend=%s not_finite=%d", first.runtime()["backend"], n_windows)
        try:
            self._backend = open_second()
        except Exception as error:  # whatever libraries raise; the first one goes on
            log.error("backend_not_replaced error=%r", error)
            return False
        first.close()
        return True

    def _compute_again(self, items: Items) -> Iterator[tuple[int, Output]]:
        waiting: Pool[Any] = Pool()
        waiting.add(sorted(items, key=lambda item: item.id))
        is_repaired = False
        for number, output in self._backend.run(waiting):
            if not is_repaired and is_finite(output):
                is_repaired = True
                self._on_repair()  # before the outputs are known elsewhere
            yield number, output


def is_finite(output: Output) -> bool:
    """Return False for a vector or scores with NaN or an infinity in them; True for any other output."""
    if isinstance(output, Labels):
        return all(math.isfinite(score) for score in output.scores.values())
    if isinstance(output, TokenScores):
        return bool(np.isfinite(output.scores).all())
    if isinstance(output, SpanScores):
        return output.finite
    return not isinstance(output, Vector | Weights) or bool(np.isfinite(output.values).all())
