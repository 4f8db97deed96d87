"""Traces from a source to its results, by real processes and a collector."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docmill.tasks import tracing
from tests.tasks.backends.remote.api_server import MODEL, ApiServer
from tests.worker.collector import Collector, collecting
from tests.worker.harness import Docmill, run_python

SECRET = "the text of a document stays at home"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite keeps the same two columns
def test_one_trace_joins_the_command_to_the_commits_of_a_worker(
    fleet: Docmill, collector: Collector, write_corpus: Callable[..., Path]
) -> None:
    source = write_corpus({"id": str(n), "text": f"{SECRET} {n}"} for n in range(200))
    fleet.loads_models = False
    fleet.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "DOCMILL_LOG_FORMAT": "json"}
    job = fleet.enqueue("translate", source, "--model", "null@50000", "--request-id", "night/7")
    with fleet.worker("--threads", "2", "--log-level", "info"):
        fleet("status", job, "--wait")
    # The device process has ended: what it had recorded was sent when it drained.
    (enqueued,) = collector.with_prefix("enqueue")
    (ingest,) = collector.with_prefix("ingest")
    processed = collector.with_prefix("process docmill:v1:translate")
    commits, claims = collector.with_prefix("commit"), collector.with_prefix("claim")
    batches = collector.with_prefix("text_completion null@50000")
    assert (enqueued.parent, ingest.parent) == ("", enqueued.id)
    assert len(processed) == len(commits) == len(claims) > 1
    assert {span.trace for span in (*processed, *commits, *claims, *batches)} == {enqueued.trace}
    assert {span.parent for span in processed} == {enqueued.id}
    assert {span.parent for span in commits} == {span.id for span in processed}
    assert batches
    assert {span.parent for span in batches} <= {span.id for span in processed}
    send_ids = {span.id for span in collector.with_prefix("send docmill:v1:translate")}
    linked = [span for span in processed if span.links]
    assert linked
    assert all(set(span.links) <= send_ids for span in linked)
    assert {span.kind for span in processed} == {"consumer"}
    assert sum(span.attributes["docmill.outcomes"] for span in commits) == 200
    assert sum(span.attributes["gen_ai.usage.input_tokens"] for span in batches) > 0
    assert batches[0].attributes["gen_ai.operation.name"] == "text_completion"
    assert processed[0].attributes["messaging.destination.name"] == "docmill:v1:translate"
    assert processed[0].resource["service.name"] == "docmill"
    assert not any(SECRET.encode() in body for body in collector.raw)
    assert fleet.json("status", job)["request_id"] == "night/7"
    events = [json.loads(line) for line in fleet.log("worker").splitlines() if line.startswith("{")]
    of_shards = [event for event in events if "shard" in event]
    assert of_shards
    assert {event["request_id"] for event in of_shards} == {"night/7"}


def test_requests_to_a_server_of_models_are_spans_within_a_batch(
    embedded: Docmill, collector: Collector, server: ApiServer, write_corpus: Callable[..., Path]
) -> None:
    source = write_corpus({"id": str(n), "text": f"{SECRET} {n}"} for n in range(3))
    embedded.environment |= {"DOCMILL_TRACES_ENDPOINT": collector.url, "DOCMILL_ENDPOINT": server.endpoint}
    embedded("run", "generate", source, "--model", f"openai:{MODEL}", "--prompt", "{text}")
    requests = collector.with_prefix("chat ")
    (enqueued,) = collector.with_prefix("enqueue")
    assert len(requests) >= 3
    assert {span.kind for span in requests} == {"client"}
    assert {span.trace for span in requests} == {enqueued.trace}
    assert requests[0].attributes["gen_ai.provider.name"] == "openai"
    assert requests[0].attributes["server.address"] == "127.0.0.1"
    assert not any(SECRET.encode() in body for body in collector.raw)


def test_without_a_collector_no_library_is_loaded_and_a_job_has_an_id_all_the_same(
    embedded: Docmill, write_corpus: Callable[..., Path]
) -> None:
    source = write_corpus([{"id": "1", "text": "one"}])
    embedded("run", "embed", source, "--model", "null")
    status = embedded.json("status", 1)
    assert len(status["request_id"]) == 32
    program = (
        "import sys, docmill.tasks.tracing\n"
        "with docmill.tasks.tracing.span('x') as span: span.set({'a': 1})\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert run_python(program, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name",
    ["", None, 7, "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "00-" + "a" * 32 + "-" + "b" * 16, "x" * 200],
)
def test_the_name_of_a_span_from_outside_has_its_form_or_is_ignored(name: Any) -> None:
    assert tracing.valid(name) is None
    assert tracing.valid("00-" + "a" * 32 + "-" + "b" * 16 + "-01") is not None
