"""Spans of the batches on a device."""

from __future__ import annotations

from collections.abc import Callable

from docmill.storage.outputs.output_types import TEXT, VECTOR, WEIGHTS
from docmill.tasks import kinds, tracing
from docmill.tasks.engine.engine import BatchDone, BatchStarted, Counters
from docmill.tasks.tracing import OFF, Span


class BatchSpans:
    """Begins a span with each batch, and ends it. `counters` are those of the engine."""

    def __init__(self, device: str, counters: Callable[[], Counters]) -> None:
        self._device = device
        self._counters = counters
        self._span: Span = OFF
        self._written = 0

    def follow(self, event: BatchStarted | BatchDone) -> None:
        """Begin or end the span of a batch."""
        if not tracing.is_on():
            return
        if isinstance(event, BatchDone):
            self._span.set({"gen_ai.usage.output_tokens": self._counters().tokens_out - self._written})
            self._span.end()
            return
        self._written = self._counters().tokens_out
        operation, model = operation_of(event.spec.kind), event.spec.model
        about = tracing.model_use(operation, model, event.tokens)
        about |= {"docmill.device": self._device, "docmill.windows": event.windows}
        about |= {"docmill.padded_tokens": event.padded_tokens}
        self._span = tracing.begin_batch(model, operation, event.traceparents, about)


def operation_of(kind: str) -> str:
    """Return the operation of a kind of task, by the convention's names where it has one."""
    names = {TEXT: "text_completion", VECTOR: "embeddings", WEIGHTS: "embeddings"}
    return names.get(kinds.kind(kind).output, kind)
