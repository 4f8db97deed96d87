"""Serve metrics over HTTP to Prometheus, or print them once; the metrics of a worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from docmill.worker.cli.printing import say
from docmill.worker.errors import WorkerError
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
    """Serve a worker's metrics for the length of the block, where the settings ask for them."""
    if settings.metrics_port is None:
        yield
        return
    with serving(WorkerCollector(supervisor.work), settings.metrics_host, settings.metrics_port) as url:
        say(f"Metrics: {url}")
        yield


@contextmanager
def serving(collector: Collector, host: str, port: int) -> Iterator[str]:
    """Serve a collector's metrics on a thread for the length of the block. Yield their URL.

    Port 0 is any free one. Raises WorkerError, if the address cannot be had.
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


def exposition(collector: Collector) -> str:
    """Return the metrics of a collector in Prometheus's text format."""
    return generate_latest(_registry(collector)).decode()


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
