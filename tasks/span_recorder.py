"""The recorder of spans on OpenTelemetry's SDK, which is imported only if tracing is on (`tasks.tracing`)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

log = logging.getLogger("docmill.traces")

FLUSH_S = 3.0  # the longest wait for the collector when a process ends
EXPORT_S = 5.0  # the longest time for one request to it
NOT_SENT = "the collector does not take spans; they are dropped until it does"


class SpanRecorder:
    """The SDK's tracer, with spans named by their `traceparent`."""

    batch: str | None = None  # a process has one device

    def __init__(self, endpoint: str, version: str, resource: Mapping[str, str]) -> None:
        service = {"service.name": "docmill", "service.version": version, **resource}
        self._provider = TracerProvider(resource=Resource.create(service), shutdown_on_exit=False)
        self._exporter = _Exporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_S)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        # The library logs each try, every few seconds, while the collector is away.
        logging.getLogger(trace_exporter.__name__).setLevel(logging.CRITICAL)
        self._tracer = self._provider.get_tracer("docmill", version)

    def begin(
        self,
        name: str,
        attributes: Mapping[str, str | int | float | bool],
        kind: str,
        parent: str | None,
        links: Iterable[str | None],
    ) -> Span:
        """Begin a span of the SDK."""
        others = [
            Link(get_current_span(_make_context(link)).get_span_context())
            for link in dict.fromkeys(links)
            if link is not None and link != parent
        ]
        return self._tracer.start_span(
            name,
            context=_make_context(parent),
            kind=SpanKind[kind.upper()],
            attributes=dict(attributes),
            links=others,
        )

    def fail(self, span: Span, error: str) -> None:
        """Mark a span as failed, with the type of its error."""
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)

    def flush(self) -> None:
        """Send the waiting spans, for at most `FLUSH_S` seconds."""
        if self._exporter.is_away:
            return
        # On a thread, since the SDK's flush has no time limit.
        flushing = threading.Thread(target=self._provider.force_flush, name="flush-spans", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)


class _Exporter(trace_exporter.OTLPSpanExporter):
    """Notes if the collector took the last spans."""

    is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        is_taken = result is SpanExportResult.SUCCESS
        if not is_taken and not self.is_away:
            log.warning("traces_not_sent reason=%r", NOT_SENT)
        self.is_away = not is_taken
        return result


def _make_context(parent: str | None) -> Context:
    """Return a context with the span of this `traceparent`."""
    carrier = {} if parent is None else {"traceparent": parent}
    return TraceContextTextMapPropagator().extract(carrier, Context())
