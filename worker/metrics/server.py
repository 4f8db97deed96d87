"""Serve metrics over HTTP to Prometheus, or print them once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from docmill.worker.errors import WorkerError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector


def exposition(collector: Collector) -> str:
    """Return the metrics of a collector in Prometheus's text format."""
    from prometheus_client import generate_latest

    return generate_latest(_registry(collector)).decode()


@contextmanager
def serving(collector: Collector, host: str, port: int) -> Iterator[str]:
    """Serve a collector's metrics on a thread for the length of the block. Yield their URL.

    Port 0 is any free one. Raises WorkerError, if the address cannot be had.
    """
    from prometheus_client import start_http_server

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


def _registry(collector: Collector) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
