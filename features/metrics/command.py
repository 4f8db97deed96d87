"""`docmill metrics`: serve the fleet's metrics to Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import click

from docmill.features.metrics import LIBRARY
from docmill.storage.core.database import Database
from docmill.storage.migrations import require_current
from docmill.storage.results.fleet import Fleet, read_fleet
from docmill.worker.cli.options import whole_number
from docmill.worker.cli.printing import answer, say
from docmill.worker.prices import read_prices
from docmill.worker.settings import ENQUEUE_LANE, LANES, load_settings
from docmill.worker.stores import open_store, queue_of
from docmill.worker.terminal import warn


@click.command("metrics", epilog="Example: docmill metrics --port 9464")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on; 0.0.0.0 for all.")
@click.option("--port", type=whole_number(0, 65535), default=9464, show_default=True, help="Port; 0 for any free.")
@click.option("--once", is_flag=True, help="Print the metrics and end.")
def metrics_command(host: str, port: int, once: bool) -> None:
    """Serve the fleet's metrics to Prometheus, until Ctrl-C.

    The command reads the database at each scrape, so the metrics are right even if every worker is dead. One such
    process is enough for a fleet. Metrics contain names of pipelines and models, but no text of a document. The spend
    needs DOCMILL_PRICES. For metrics of a worker, set DOCMILL_METRICS_PORT.
    """
    LIBRARY.require("`docmill metrics`")
    from docmill.features.metrics.serving import FleetCollector, serve, write_exposition

    settings = load_settings()
    prices = read_prices(settings)
    with open_store(settings, on_away=None if once else _warn_away) as database, queue_of(settings) as queue:
        broker = queue if settings.redis_url else None  # a worker's own queue goes with the worker
        depths = None if broker is None else lambda: {lane: broker.depth(lane) for lane in (*LANES, ENQUEUE_LANE)}
        collector = FleetCollector(_reader(database), depths, prices)
        if once:
            answer(write_exposition(collector), nl=False)
            return
        with serve(collector, host, port) as url, suppress(KeyboardInterrupt):
            say(f"Metrics: {url} (Ctrl-C ends it)")
            threading.Event().wait()


def _warn_away(error: Exception) -> None:
    warn(f"{error}; docmill keeps trying.")


def _reader(database: Database) -> Callable[[], Fleet]:
    """Return a function that reads the fleet's state. It checks the schema until the schema is right once."""
    check_schema = cache(require_current)  # which remembers no error

    def read() -> Fleet:
        check_schema(database)
        return read_fleet(database, LANES)

    return read
