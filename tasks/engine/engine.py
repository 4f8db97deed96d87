"""The engine: many threads submit texts, one thread keeps the device busy, and each text gets one outcome.

The submitting thread tokenizes and splits texts. The windows of all tickets of a spec wait in one pool. The device
thread gives windows to the backends and joins the outputs. This module imports no model library.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from docmill.storage.core.specs import Outcome, Spec
from docmill.tasks.backends import Backend, Served
from docmill.tasks.batching import Item
from docmill.tasks.engine.device import (
    TURN_S,
    Batch,
    Counters,
    Device,
    LoadedModel,
    ModelCache,
    OnBatch,
    Owner,
)
from docmill.tasks.engine.tickets import Ticket, TicketText, cut_each
from docmill.tasks.errors import EngineStopped
from docmill.tasks.kinds.base import Again
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded

__all__ = ["Batch", "Counters", "Engine", "Ticket"]

# Texts to cut at a time. The device gets their windows before the rest of the shard is cut.
PORTION_TEXTS = 32


class Engine:
    """The models and the work of one device. At most ``max_specs`` models stay loaded; idle ones are closed first.

    ``on_batch`` is called on the device thread as each batch starts and ends.
    """

    def __init__(
        self,
        open_backend: Callable[[Spec], Backend],
        *,
        on_batch: OnBatch | None = None,
        max_specs: int = 3,
        turn_s: float = TURN_S,
    ) -> None:
        self._models = ModelCache(open_backend, max_specs)
        self._changed = self._models.changed
        self._arrivals = itertools.count()
        self._device = Device(self._models, self._receive, on_batch, turn_s)

    def start(self) -> None:
        """Start the device thread."""
        self._device.start()

    def open(self, spec: Spec) -> dict[str, Any]:
        """Load the spec's model if it is not loaded, and return its device, precision, backend and versions.

        Raises CannotServe with the reason, and EngineStopped.
        """
        with self.hold(spec) as runtime:
            return runtime

    @contextmanager
    def hold(self, spec: Spec) -> Iterator[dict[str, Any]]:
        """Yield the spec's runtime. The model is opened if necessary, and stays loaded while the block runs.

        Raises CannotServe with the reason, and EngineStopped.
        """
        with self._models.hold(spec) as loaded:
            yield loaded.backend.runtime()

    def runtime_since(self, spec: Spec, before: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the runtime of work that began with the runtime ``before``.

        It names both backends if another backend has taken over since.
        """
        loaded = self._models.loaded(spec)
        now = before if loaded is None else loaded.backend.runtime()
        if now["backend"] == before["backend"]:
            return before
        versions = {**before["versions"], **now["versions"]}
        return {**now, "backend": f"{before['backend']}, then {now['backend']}", "versions": versions}

    def submit(self, spec: Spec, texts: Sequence[tuple[int, str]], traceparent: str | None = None) -> Ticket:
        """Tokenize and cut (content id, text) pairs in the calling thread, and return their ticket.

        Batches with these texts belong to the span ``traceparent`` (see `tasks.tracing`). Raises CannotServe if the
        model is not open and cannot be opened, and EngineStopped after `drain` or `close`.
        """
        with self._models.hold(spec) as loaded:
            ticket = Ticket([content_id for content_id, _ in texts], self._drop, traceparent)
            entries = [
                TicketText(ticket, position, content_id, text) for position, (content_id, text) in enumerate(texts)
            ]
            for entry in entries:
                if not entry.source_text.strip():
                    ticket.settle(entry.position, entry.skipped())
            entries = [entry for entry in entries if entry.source_text.strip()]
            with self._cutting(loaded):
                for start in range(0, len(entries), PORTION_TEXTS):
                    if not self._begin(loaded, ticket, entries[start : start + PORTION_TEXTS]):
                        if start == 0:
                            raise EngineStopped
                        break
            return ticket

    def forget_stored(self, spec: Spec, ticket: Ticket, outcomes: Sequence[Outcome]) -> None:
        """Tell the backend that the store has these outcomes, so that it removes their outputs."""
        windows = ticket.take_journaled(outcome.content_id for outcome in outcomes)
        loaded = self._models.loaded(spec)
        if windows and loaded is not None and isinstance(loaded.backend, Served):
            loaded.backend.forget(windows)

    def drain(self) -> None:
        """Finish the batch on the device, take no other, and wake the waiters of all tickets."""
        self._device.stop()

    def close(self) -> None:
        """Drain, and free the device's memory."""
        self.drain()
        self._models.close()

    @property
    def error(self) -> BaseException | None:
        """The error that ended the device thread; None while it lives. After an error, the engine accepts no work."""
        return self._device.error

    @property
    def counters(self) -> Counters:
        """The work of the device since the start."""
        return self._device.counters

    # Texts.

    @contextmanager
    def _cutting(self, loaded: LoadedModel) -> Iterator[None]:
        with self._changed:
            loaded.cutting += 1
        try:
            yield
        finally:
            with self._changed:
                loaded.cutting -= 1
                self._changed.notify_all()

    def _begin(self, loaded: LoadedModel, ticket: Ticket, entries: Sequence[TicketText]) -> bool:
        """Cut texts and put their windows into the pool. Return False if the engine has stopped."""
        begun: list[tuple[TicketText, list[tuple[int, Encoded]]]] = []
        cuts = cut_each(loaded.recipe, loaded.backend, [entry.source_text for entry in entries])
        for entry, windows in zip(entries, cuts, strict=True):
            if isinstance(windows, Exception):
                self._settle(loaded, entry, entry.uncut(windows))
            else:
                begun.append((entry, entry.begin(entry.source_text, windows)))
        with self._changed:
            if self._models.stopping or loaded.withdrawn:
                return False
            if not ticket.complete:
                loaded.tickets.add(ticket)
            self._enqueue(loaded, begun)
        for entry, wanted in begun:
            if not wanted:  # no window to compute, such as in a text of dots
                self._conclude(loaded, entry)
        return True

    def _enqueue(self, loaded: LoadedModel, begun: Iterable[tuple[TicketText, list[tuple[int, Encoded]]]]) -> None:
        """Put texts' windows into the pool. The caller holds the lock."""
        windows = ((encoded, (entry, index)) for entry, wanted in begun for index, encoded in wanted)
        loaded.pool.add(Item(next(self._arrivals), encoded, owner) for encoded, owner in windows)
        self._changed.notify_all()

    def _drop(self, ticket: Ticket) -> None:
        with self._changed:
            for loaded in self._models:
                if ticket in loaded.tickets:
                    loaded.tickets.discard(ticket)
                    loaded.pool.discard(lambda owner: owner[0].ticket is ticket)
            self._changed.notify_all()

    def _receive(self, loaded: LoadedModel, item: Item[Owner], output: Output) -> None:
        entry, index = item.owner
        if loaded.journaled:
            entry.ticket.note_journaled(entry.content_id, item.encoded)
        if entry.receive(index, item.encoded, output):
            self._conclude(loaded, entry)
        else:
            entry.ticket.advance(entry.position, entry.computed)

    def _conclude(self, loaded: LoadedModel, entry: TicketText) -> None:
        """Settle a text whose round is computed, or begin its next round."""
        result = entry.finish(loaded.recipe, loaded.checks)
        if isinstance(result, Again):
            (windows,) = cut_each(loaded.recipe, loaded.backend, [result.text])
            if isinstance(windows, Exception):
                result = entry.uncut(windows)
            else:
                wanted = entry.begin(result.text, windows)
                with self._changed:
                    if not entry.ticket.dropped:
                        self._enqueue(loaded, [(entry, wanted)])
                return
        self._settle(loaded, entry, result)

    def _settle(self, loaded: LoadedModel, entry: TicketText, outcome: Outcome) -> None:
        ticket = entry.ticket
        ticket.settle(entry.position, outcome)
        if ticket.complete:
            with self._changed:
                loaded.tickets.discard(ticket)
                self._changed.notify_all()
