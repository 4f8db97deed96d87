"""Traces with OpenTelemetry, from the reading of a source to its results.

Tracing is off, and OpenTelemetry is not imported, until `start` is called. Spans have ids, counts and names of
models, but no text of a document. Attributes follow OpenTelemetry's conventions for messaging and for generative AI.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from docmill.tasks.span_recorder import SpanRecorder

log = logging.getLogger("docmill.traces")

Value: TypeAlias = str | int | float | bool
Attributes: TypeAlias = Mapping[str, Value]
Kind: TypeAlias = Literal["internal", "client", "producer", "consumer"]

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class TraceSpan:
    """A unit of work. It is recorded if it has a span of OpenTelemetry.

    `traceparent` names the span for other processes and threads, as in W3C's Trace Context; None if it is not
    recorded.
    """

    def __init__(self, recorded: Any = None) -> None:
        self._recorded = recorded
        context = None if recorded is None else recorded.get_span_context()
        self.traceparent = context and f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        if self._recorded is not None:
            self._recorded.set_attributes(attributes)

    def fail(self, error: str) -> None:
        """Mark the work as failed, with the type of its error."""
        if self._recorded is not None and _recorder is not None:
            _recorder.fail(self._recorded, error)

    def end(self) -> None:
        """End the span. It takes no attributes after that."""
        if self._recorded is not None:
            self._recorded.end()

    @property
    def trace_id(self) -> str | None:
        """The id of the trace, 32 hexadecimal digits."""
        return None if self.traceparent is None else self.traceparent[3:35]


OFF = TraceSpan()
_recorder: SpanRecorder | None = None
_around: ContextVar[str | None] = ContextVar("traceparent", default=None)  # of the block that runs


def start(endpoint: str | None, **resource: str) -> None:
    """Send this process's spans to a collector. `endpoint` is the URL before `/v1/traces`; None turns tracing off.

    If OpenTelemetry is missing, the log says so. The SDK reads OpenTelemetry's own variables for headers, the sampler
    and more about the resource.
    """
    global _recorder  # noqa: PLW0603 - a process has one recorder, as it has one log
    if endpoint is None or _recorder is not None:
        return
    try:
        from docmill.tasks.span_recorder import SpanRecorder  # which imports OpenTelemetry
    except ImportError:
        log.warning("traces_off reason=%r", "OpenTelemetry is not installed; pip install 'docmill[opentelemetry]'")
    else:
        _recorder = SpanRecorder(endpoint, version("docmill"), resource)


def is_on() -> bool:
    """Return True if spans are recorded."""
    return _recorder is not None


def stop() -> None:
    """Send the waiting spans, for three seconds at most, and stop recording."""
    global _recorder  # noqa: PLW0603
    flush()
    _recorder = None


def flush() -> None:
    """Send the waiting spans, for three seconds at most."""
    if _recorder is not None:
        _recorder.flush()


def valid(traceparent: object) -> str | None:
    """Return a `traceparent` from outside; None if it is malformed."""
    return traceparent if isinstance(traceparent, str) and TRACEPARENT.fullmatch(traceparent) else None


def begin(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: Kind = "internal",
    parent: str | None = None,
    links: Iterable[str | None] = (),
) -> TraceSpan:
    """Begin a span; the caller ends it. `parent` and `links` are the `traceparent` of other spans."""
    return OFF if _recorder is None else TraceSpan(_recorder.begin(name, attributes or {}, kind, parent, links))


@contextmanager
def span(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: Kind = "internal",
    parent: str | None = None,
    links: Iterable[str | None] = (),
) -> Iterator[TraceSpan]:
    """Record a block. Without `parent`, it is a child of the span around it."""
    begun = begin(name, attributes, kind=kind, parent=parent or _around.get(), links=links)
    token = _around.set(begun.traceparent)
    try:
        yield begun
    except BaseException as error:
        begun.fail(type(error).__name__)
        raise
    finally:
        _around.reset(token)
        begun.end()


def current_batch() -> str | None:
    """Return the span of the batch on this process's device."""
    return None if _recorder is None else _recorder.batch


def begin_batch(model: str, operation: str, shards: Iterable[str], attributes: Attributes) -> TraceSpan:
    """Begin the span of a batch on the device: a child of its first shard's span, with links to the others."""
    if _recorder is None:
        return OFF
    parent, *others = [*shards, None]
    begun = begin(f"{operation} {model}", attributes, parent=parent, links=others)
    _recorder.batch = begun.traceparent
    return begun


def messaging(operation: str, queue: str) -> dict[str, Value]:
    """Return the attributes of sending or processing messages of a queue.

    https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
    """
    return {
        "messaging.system": "redis",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
    }


def model_use(operation: str, model: str, tokens_in: int | None = None) -> dict[str, Value]:
    """Return the attributes of the use of a model.

    https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/gen-ai-spans.md
    """
    counted = {} if tokens_in is None else {"gen_ai.usage.input_tokens": tokens_in}
    return {"gen_ai.operation.name": operation, "gen_ai.request.model": model, **counted}
