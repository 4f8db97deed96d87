"""The fleet's metrics: names, labels and values that dashboards and alerts rely on."""

from __future__ import annotations

import os
import re
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from docmill.features.metrics.serving import FleetCollector, write_exposition
from docmill.storage.errors import DatabaseUnreachable
from docmill.storage.results.counts import StoreTotals
from docmill.storage.results.fleet import Fleet, FleetWorker, Lane, PipelineState
from docmill.worker.errors import BrokerUnreachable
from docmill.worker.prices import Price, Prices
from tests.worker.harness import DOCMILL, ROOT

WORK = StoreTotals(
    texts={("embed", "done"): 900, ("embed", "failed"): 3},
    tokens_in={("embed", "minilm"): 70_000, ("translate", "openai:m"): 2_000_000},
    tokens_out={("translate", "openai:m"): 1_000_000},
    commits={"embed": 9},
    lapses={"embed": 2},
    failures={("embed", "document"): 3},
    flags={("embed", "truncated"): 5},
    records={"new": 1_000, "rejected": 1},
)
PRICES = Prices({"openai:m": Price(0.25, 2.0)}, "USD")


def worker(name: str, lanes: tuple[str, ...], **problems: str) -> FleetWorker:
    return FleetWorker(name, "host", 1, "cuda:0", lanes, 8, "0.1.0", 0.0, 1.0, **problems)  # type: ignore[arg-type]


FLEET = Fleet(
    at=1_700_000_100.0,
    documents=1_000,
    work=WORK,
    jobs={"running": 2, "done": 7},
    lanes=(
        Lane(
            "embed",
            planned=40,
            running=8,
            suspects=1,
            oldest_s=61.5,
            oldest_queued_s=4.5,
            statuses_per_s={"done": 12.0, "failed": 0.5, "skipped": 0.0},
            tokens_in_per_s=900.0,
        ),
    ),
    workers=(
        worker("w1", ("embed", "translate")),
        worker("w2", ("embed",), trouble="disk full"),
        worker("w3", ("embed",), trouble="disk full", device_problem="no driver"),
    ),
    readings={"reading": 1, "stopped": 0},
    pipelines=(PipelineState('"nightly"', 1_700_000_000.0, failed=True, late_s=30.0),),
)
# The page is the contract: a name or a label that changes breaks dashboards and alerts.
PAGE, _, _ = (ROOT / "docs" / "monitoring.md").read_text().partition("\n## A worker's metrics\n")
NAMES = {
    name: tuple(sorted(re.findall(r"`(\w+)`", labels)))
    for name, labels in re.findall(r"^\| `(docmill_\w+)` \| ([^|]*)\|", PAGE, re.MULTILINE)
}


def parse_samples(text: str) -> dict[tuple[str, ...], float]:
    """Return the samples of an exposition by name and label values, these in the order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def collector(depths: Callable[[], dict[str, int]] | None = lambda: {"embed": 5}) -> FleetCollector:
    return FleetCollector(lambda: FLEET, depths, PRICES)


def test_each_metric_has_the_name_and_the_labels_of_the_page_and_help() -> None:
    families = list(text_string_to_metric_families(write_exposition(collector())))
    labels = {
        f"{family.name}{'_total' * (family.type == 'counter')}": tuple(
            sorted({label for sample in family.samples for label in sample.labels})
        )
        for family in families
    }
    assert labels == NAMES
    assert {family.type for family in families} == {"gauge", "counter"}
    assert all(family.documentation.endswith(".") for family in families)


def test_the_values_are_those_of_the_store() -> None:
    samples = parse_samples(write_exposition(collector()))
    assert samples["docmill_jobs", "running"] == 2
    assert samples["docmill_shards", "embed", "planned"] == 40
    assert samples["docmill_texts_per_second", "embed", "failed"] == 0.5
    assert samples["docmill_tokens_per_second", "in", "embed"] == 900
    assert [samples["docmill_workers", state] for state in ("ok", "store_refuses", "device_unusable")] == [1, 1, 1]
    assert (samples["docmill_worker_slots", "embed"], samples["docmill_worker_slots", "translate"]) == (24, 8)
    assert samples["docmill_pipeline_failed", '"nightly"'] == 1
    assert samples["docmill_queue_messages", "embed"] == 5
    assert (samples["docmill_documents",], samples["docmill_records_total", "new"]) == (1_000, 1_000)
    assert samples["docmill_tokens_total", "out", "translate", "openai:m"] == 1_000_000
    assert samples["docmill_spend_total", "USD", "openai:m"] == pytest.approx(2 * 0.25 + 1 * 2.0)
    assert ("docmill_spend_total", "USD", "minilm") not in samples, "it has no price"


def test_a_schedule_that_no_worker_looks_at_is_late_too() -> None:
    # A worker makes the run of a time that came, so without any worker there is no run that could be late.
    schedule = {"cron": "* * * * *", "timezone": "UTC", "overlap": "skip"}
    looked_at, due_at = 1_700_000_000.0, 1_700_000_040.0  # the first whole minute after it
    waits = PipelineState("nightly", None, failed=False, late_s=0.0, schedule=schedule, looked_at=looked_at)
    late = FleetCollector(lambda: replace(FLEET, at=due_at + 300, pipelines=(waits,)))
    assert parse_samples(write_exposition(late))["docmill_pipeline_late_seconds", "nightly"] == pytest.approx(300)
    on_time = FleetCollector(lambda: replace(FLEET, at=due_at - 1, pipelines=(waits,)))
    assert parse_samples(write_exposition(on_time))["docmill_pipeline_late_seconds", "nightly"] == 0


def test_a_database_or_a_queue_that_is_away_is_a_metric() -> None:
    def away() -> Fleet:
        raise DatabaseUnreachable("no route to db:5432")

    def silent() -> dict[str, int]:
        raise BrokerUnreachable

    samples = parse_samples(write_exposition(FleetCollector(away, silent)))
    assert (samples["docmill_database_up",], samples["docmill_queue_up",]) == (0, 0)
    assert not any(key[0] in {"docmill_jobs", "docmill_queue_messages"} for key in samples)


def test_the_command_serves_until_it_is_stopped_and_then_ends_well(tmp_path: Path) -> None:
    environment = {**os.environ, "DOCMILL_HOME": str(tmp_path)}
    arguments = [DOCMILL, "metrics", "--port", "0"]
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        url = command.stderr.readline().split()[1]
        with urllib.request.urlopen(url, timeout=60) as answer:
            samples = parse_samples(answer.read().decode())
        command.terminate()
        assert command.stderr.read() == ""
    assert command.returncode == 0
    assert samples["docmill_database_up",] == 1
    assert samples["docmill_shards", "embed", "planned"] == 0
