"""Traces by OpenTelemetry, from the reading of a source to its results.

Tracing is off, and OpenTelemetry is not imported, until `start` is called. Spans have ids, counts and names of
models, and no text of a document. Attributes follow OpenTelemetry's conventions for messaging and for generative AI.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import SpanContext, Tracer

log = logging.getLogger("docmill.traces")

Value: TypeAlias = str | int | float | bool
Attributes: TypeAlias = Mapping[str, Value]
Kind: TypeAlias = Literal["internal", "client", "producer", "consumer"]

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
FLUSH_S = 3.0  # the longest wait for the collector when a process ends
EXPORT_S = 5.0  # the longest time for one request to it
NOT_SENT = "the collector does not take spans; they are dropped until it does"


class Span:
    """A unit of work. Without a span of OpenTelemetry, it is not recorded.

    `traceparent` names the span to other processes and threads, as W3C's Trace Context does; None if it is not
    recorded.
    """

    def __init__(self, recorded: Any = None) -> None:
        self._recorded = recorded
        self.traceparent = None if recorded is None else _traceparent_of(recorded)

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        if self._recorded is not None:
            self._recorded.set_attributes(attributes)

    def fail(self, error: str) -> None:
        """Mark the work as failed, with the type of its error."""
        if self._recorded is None:
            return
        from opentelemetry.trace import StatusCode

        self._recorded.set_attribute("error.type", error)
        self._recorded.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """End the span. It takes no attributes after that."""
        if self._recorded is not None:
            self._recorded.end()

    @property
    def trace_id(self) -> str | None:
        """The id of the trace, 32 hexadecimal digits."""
        return None if self.traceparent is None else self.traceparent[3:35]


OFF = Span()
_recorder: _Recorder | None = None
_around: ContextVar[str | None] = ContextVar("traceparent", default=None)  # of the block that runs


def start(endpoint: str | None, **resource: str) -> None:
    """Send this process's spans to a collector, given the URL before `/v1/traces`; None stands for no collector.

    Without OpenTelemetry the log says that it is missing. The SDK reads OpenTelemetry's own variables for the rest:
    headers, sampler, more about the resource.
    """
    global _recorder  # noqa: PLW0603 - a process has one, as it has one log
    if endpoint is None or _recorder is not None:
        return
    try:
        _recorder = _Recorder(endpoint, version("docmill"), resource)
    except ImportError:
        log.warning("traces_off reason=%r", "OpenTelemetry is not installed; pip install 'docmill[opentelemetry]'")


def is_on() -> bool:
    """Return True if spans are recorded."""
    return _recorder is not None


def stop() -> None:
    """Send the spans that wait, for at most `FLUSH_S` seconds, and record no more."""
    global _recorder  # noqa: PLW0603
    flush()
    _recorder = None


def flush() -> None:
    """Send the spans that wait, for at most `FLUSH_S` seconds."""
    if _recorder is not None:
        _recorder.flush()


def valid(traceparent: object) -> str | None:
    """Return the name of a span that came from outside, or None if it has another form."""
    return traceparent if isinstance(traceparent, str) and TRACEPARENT.fullmatch(traceparent) else None


def begin(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: Kind = "internal",
    parent: str | None = None,
    links: Iterable[str | None] = (),
) -> Span:
    """Begin a span, which its caller ends. `parent` and `links` are the `traceparent` of other spans."""
    return OFF if _recorder is None else _recorder.begin(name, attributes or {}, kind, parent, links)


@contextmanager
def span(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: Kind = "internal",
    parent: str | None = None,
    links: Iterable[str | None] = (),
) -> Iterator[Span]:
    """Record a block. Without `parent`, a span within the block of another is its child."""
    if _recorder is None:
        yield OFF
        return
    begun = _recorder.begin(name, attributes or {}, kind, parent or _around.get(), links)
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
    """Return the span of the batch that is on this process's device."""
    return None if _recorder is None else _recorder.batch


def begin_batch(model: str, operation: str, shards: Iterable[str], attributes: Attributes) -> Span:
    """Begin the span of a batch on the device: a child of its first shard, with links to the others."""
    if _recorder is None:
        return OFF
    parent, *others = [*shards, None]
    begun = _recorder.begin(f"{operation} {model}", attributes, "internal", parent, others)
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


class _Recorder:
    """The SDK's tracer, with spans named by their `traceparent`."""

    batch: str | None = None  # a process has one device
    _is_away = False  # the collector did not take the last spans

    def __init__(self, endpoint: str, version: str, resource: Mapping[str, str]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter(f"{endpoint.rstrip('/')}/v1/traces", self._sent)
        service = {"service.name": "docmill", "service.version": version, **resource}
        self._provider: TracerProvider = TracerProvider(resource=Resource.create(service), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Tracer = self._provider.get_tracer("docmill", version)

    def begin(
        self, name: str, attributes: Attributes, kind: Kind, parent: str | None, links: Iterable[str | None]
    ) -> Span:
        from opentelemetry.trace import Link, SpanKind

        others = [Link(_context_of(link)) for link in dict.fromkeys(links) if link is not None and link != parent]
        recorded = self._tracer.start_span(
            name, context=_within(parent), kind=SpanKind[kind.upper()], attributes=dict(attributes), links=others
        )
        return Span(recorded)

    def _sent(self, well: bool) -> None:
        if not well and not self._is_away:
            log.warning("traces_not_sent reason=%r", NOT_SENT)
        self._is_away = not well

    def flush(self) -> None:
        if self._is_away:
            return
        # On a thread: the SDK's flush takes no limit, and nobody waits long for a collector that is away.
        flushing = threading.Thread(target=self._provider.force_flush, name="flush-spans", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)


def _exporter(url: str, sent: Callable[[bool], None]) -> SpanExporter:
    """Return an exporter that tells `sent` whether the collector took its spans."""
    from opentelemetry.exporter.otlp.proto.http import trace_exporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    class Exporter(trace_exporter.OTLPSpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = super().export(spans)
            sent(result is SpanExportResult.SUCCESS)
            return result

    # The library writes a line for each try, every few seconds, as long as the collector is away.
    logging.getLogger(trace_exporter.__name__).setLevel(logging.CRITICAL)
    return Exporter(endpoint=url, timeout=EXPORT_S)


def _within(parent: str | None) -> Context:
    """Return a context whose span has this `traceparent`."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {} if parent is None else {"traceparent": parent}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _context_of(traceparent: str) -> SpanContext:
    from opentelemetry.trace import get_current_span

    return get_current_span(_within(traceparent)).get_span_context()


def _traceparent_of(recorded: Any) -> str:
    context = recorded.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
