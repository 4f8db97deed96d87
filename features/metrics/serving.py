"""Collect metrics of a fleet and of a worker, and serve them over HTTP to Prometheus or print them once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from docmill.storage.errors import StorageError
from docmill.storage.results.counts import StoreTotals
from docmill.storage.results.fleet import Fleet, PipelineState
from docmill.storage.steps.sharding import OPEN_SHARDS
from docmill.worker.cli.printing import say
from docmill.worker.errors import BrokerUnreachable, WorkerError
from docmill.worker.pipelines.schedule import next_run
from docmill.worker.prices import Prices
from docmill.worker.process.counts import COUNTERS, GAUGES, WorkByDevice
from docmill.worker.process.supervisor import Supervisor
from docmill.worker.settings import Settings


class WorkerCollector(Collector):
    """Collects the counters `docmill_worker_…_total` and the gauges of a worker, by device."""

    def __init__(self, work: WorkByDevice) -> None:
        self._work = work

    def collect(self) -> Iterator[Metric]:
        """Yield the counters and gauges as they are now."""
        totals, deaths, gauges = self._work.read()
        for name, (about, labels) in COUNTERS.items():
            family = CounterMetricFamily(f"docmill_worker_{name}", about, labels=("device", *labels))
            for device, counts in totals.items():
                for key, value in counts.items():
                    own, *values = key.split("\t")
                    if own == name:
                        family.add_metric((device, *values), value)
            yield family
        died = CounterMetricFamily("docmill_worker_deaths", "Device processes that died.", labels=("device",))
        for device, n in deaths.items():
            died.add_metric((device,), n)
        yield died
        for name, about in GAUGES.items():
            gauge = GaugeMetricFamily(f"docmill_worker_{name}", about, labels=("device",))
            for device, known in gauges.items():
                if name in known:
                    gauge.add_metric((device,), known[name])
            yield gauge


@contextmanager
def serve_beside(settings: Settings, supervisor: Supervisor) -> Iterator[None]:
    """Serve a worker's metrics for the length of the block, if the settings have a port for them."""
    if settings.metrics_port is None:
        yield
        return
    with serve(WorkerCollector(supervisor.work), settings.metrics_host, settings.metrics_port) as url:
        say(f"Metrics: {url}")
        yield


@contextmanager
def serve(collector: Collector, host: str, port: int) -> Iterator[str]:
    """Serve a collector's metrics on a thread for the length of the block. Yield their URL.

    Port 0 is any free port. Raises WorkerError if the address is not available.
    """
    try:
        server, thread = start_http_server(port, host, _registry(collector))
    except OSError as error:
        raise WorkerError(f"Metrics cannot be served on {host} port {port}: {error.strerror}") from error
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_exposition(collector: Collector) -> str:
    """Return the metrics of a collector in Prometheus's text format."""
    return generate_latest(_registry(collector)).decode()


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


class FleetCollector(Collector):
    """Collects the metrics `docmill_…` of the fleet.

    `read` reads the store. `depths` counts the messages in the queue by lane; None if there is no queue. If the store
    or the queue does not answer, `docmill_database_up` or `docmill_queue_up` is 0, and the scrape continues.
    """

    def __init__(
        self,
        read: Callable[[], Fleet],
        depths: Callable[[], dict[str, int]] | None = None,
        prices: Prices | None = None,
    ) -> None:
        self._read = read
        self._depths = depths
        self._prices = prices or Prices()
        self._version = version("docmill")  # reading it takes as long as several queries

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        yield _gauge("docmill_build_info", "Version of docmill.", ["version"], {self._version: 1})
        began = time.monotonic()
        try:
            fleet = self._read()
        except StorageError:
            yield _is_up("database", False)
        else:
            yield _is_up("database", True)
            yield from _of_fleet(fleet)
            yield from _of_work(fleet.work, self._prices)
        if self._depths is not None:
            yield from _of_queue(self._depths)
        about = "Time that database and queue took to answer."
        yield GaugeMetricFamily("docmill_scrape_duration_seconds", about, time.monotonic() - began)


def _is_up(server: str, answered: bool) -> Metric:
    return GaugeMetricFamily(f"docmill_{server}_up", f"1 if the {server} answered, else 0.", answered)


def _of_fleet(fleet: Fleet) -> Iterator[Metric]:
    """Yield the metrics of a fleet at one moment."""
    yield GaugeMetricFamily("docmill_documents", "Documents in all corpora.", fleet.documents)
    yield _gauge("docmill_jobs", "Jobs by state.", ["state"], fleet.jobs)
    yield _gauge(
        "docmill_shards",
        "Open shards of running jobs, by lane and state.",
        ["lane", "state"],
        {(lane.name, state): getattr(lane, state) for lane in fleet.lanes for state in OPEN_SHARDS},
    )
    yield _gauge(
        "docmill_oldest_job_age_seconds",
        "Age of the oldest running job that has open shards in a lane.",
        ["lane"],
        {lane.name: lane.oldest_s for lane in fleet.lanes if lane.oldest_s is not None},
    )
    yield _gauge(
        "docmill_suspect_shards",
        "Open shards of running jobs that were in flight when their process died.",
        ["lane"],
        {lane.name: lane.suspects for lane in fleet.lanes},
    )
    yield _gauge(
        "docmill_oldest_queued_age_seconds",
        "Time that the first shard in a lane's queue has waited.",
        ["lane"],
        {lane.name: lane.oldest_queued_s for lane in fleet.lanes if lane.oldest_queued_s is not None},
    )
    yield _gauge(
        "docmill_texts_per_second",
        "Texts committed per second over the last two minutes.",
        ["lane", "status"],
        {(lane.name, status): n for lane in fleet.lanes for status, n in lane.statuses_per_s.items()},
    )
    yield _gauge(
        "docmill_tokens_per_second",
        "Tokens read (in) and written (out) per second over the last two minutes.",
        ["lane", "direction"],
        {
            (lane.name, direction): n
            for lane in fleet.lanes
            if lane.statuses_per_s
            for direction, n in (("in", lane.tokens_in_per_s), ("out", lane.tokens_out_per_s))
        },
    )
    yield from _of_workers(fleet)
    yield _gauge("docmill_readings", "Sources that are read, by state.", ["state"], fleet.readings)
    yield from _of_pipelines(fleet)


def _of_work(work: StoreTotals, prices: Prices) -> Iterator[Metric]:
    """Yield the metrics of the work since the store was made."""
    yield _counter("docmill_records", "Records read from sources, by what became of them.", ["result"], work.records)
    yield _counter("docmill_texts", "Texts whose shard ended, by status.", ["lane", "status"], work.texts)
    yield _counter(
        "docmill_tokens",
        "Tokens that ended shards read (in) and wrote (out), by model.",
        ["lane", "model", "direction"],
        {
            (*key, direction): n
            for direction, tokens in (("in", work.tokens_in), ("out", work.tokens_out))
            for key, n in tokens.items()
        },
    )
    yield _counter("docmill_commits", "Shards that ended.", ["lane"], work.commits)
    yield _counter("docmill_lease_lapses", "Leases of shards that lapsed.", ["lane"], work.lapses)
    yield _gauge(
        "docmill_failed_texts",
        "Stored outcomes that are failed, by class of reason.",
        ["lane", "reason"],
        work.failures,
    )
    yield _gauge("docmill_flagged_texts", "Stored outcomes with a flag.", ["lane", "flag"], work.flags)
    yield _counter(
        "docmill_spend",
        "Cost of the tokens of models that have a price.",
        ["model", "currency"],
        {(model, prices.currency): amount for model, amount in _spend(work, prices).items()},
    )


def _spend(work: StoreTotals, prices: Prices) -> dict[str, float]:
    """Return the cost by model."""
    spent: dict[str, float] = {}
    for lane, model in {**work.tokens_in, **work.tokens_out}:
        if (price := prices.models.get(model)) is not None:
            key = lane, model
            cost = price.of(work.tokens_in.get(key, 0), work.tokens_out.get(key, 0))
            spent[model] = spent.get(model, 0.0) + cost
    return spent


def _of_workers(fleet: Fleet) -> Iterator[Metric]:
    states = {"ok": 0, "store_refuses": 0, "device_unusable": 0}
    slots: dict[str, int] = {}
    for worker in fleet.workers:
        states["device_unusable" if worker.device_problem else "store_refuses" if worker.trouble else "ok"] += 1
        for lane in worker.lanes:
            slots[lane] = slots.get(lane, 0) + worker.slots
    refusals = sum(len(worker.refused) for worker in fleet.workers)
    yield _gauge("docmill_workers", "Live device processes by state.", ["state"], states)
    yield _gauge("docmill_worker_slots", "Shards that live workers can hold, by lane.", ["lane"], slots)
    yield GaugeMetricFamily("docmill_refusals", "Pairs of a live worker and a spec that it cannot serve.", refusals)


def _of_pipelines(fleet: Fleet) -> Iterator[Metric]:
    pipelines = fleet.pipelines
    yield _gauge(
        "docmill_pipeline_last_success_timestamp_seconds",
        "End of the last run that succeeded, in seconds since 1970.",
        ["pipeline"],
        {pipeline.name: pipeline.succeeded_at for pipeline in pipelines if pipeline.succeeded_at is not None},
    )
    yield _gauge(
        "docmill_pipeline_failed",
        "1 if the last run that ended failed, else 0.",
        ["pipeline"],
        {pipeline.name: float(pipeline.failed) for pipeline in pipelines},
    )
    yield _gauge(
        "docmill_pipeline_late_seconds",
        "Age of the oldest due run that no worker has begun.",
        ["pipeline"],
        {pipeline.name: max(pipeline.late_s, _unseen_s(pipeline, fleet.at)) for pipeline in pipelines},
    )


def _unseen_s(pipeline: PipelineState, now: float) -> float:
    """Return the seconds for which a due time of the schedule has waited for a worker to make its run."""
    at = next_run(pipeline.schedule, pipeline.looked_at)
    return 0.0 if at is None else max(0.0, now - at)


def _of_queue(depths: Callable[[], dict[str, int]]) -> Iterator[Metric]:
    try:
        messages = depths()
    except BrokerUnreachable:
        yield _is_up("queue", False)
        return
    yield _is_up("queue", True)
    yield _gauge("docmill_queue_messages", "Messages in the queue by lane.", ["lane"], messages)


def _labelled(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    about: str,
    labels: list[str],
    values: Mapping[Any, float],
) -> Metric:
    """Return a metric whose values are by their label, or by a tuple of labels. A counter's name gets `_total`."""
    metric = family(name, about, labels=labels)
    for key, value in values.items():
        metric.add_metric(key if isinstance(key, tuple) else (key,), value)
    return metric


_gauge, _counter = partial(_labelled, GaugeMetricFamily), partial(_labelled, CounterMetricFamily)
