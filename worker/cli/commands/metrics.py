"""`docmill metrics`: serve the fleet's metrics to Prometheus."""

from __future__ import annotations

import threading
from contextlib import suppress

import click

from worker.cli.context import open_store, queue_of, settings_from
from worker.cli.exit_codes import OK
from worker.cli.interrupts import stop_as_interrupt
from worker.cli.printing import answer, say


@click.command("metrics", epilog="Example: docmill metrics --port 9464")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=9464, show_default=True, help="Port; 0 for any free.")
@click.option("--once", is_flag=True, help="Print the metrics and end.")
def metrics_command(host: str, port: int, once: bool) -> int:
    """Serve the fleet's metrics to Prometheus, until Ctrl-C.

    They are read from the database at each scrape, so they are right even if every worker is dead. One such process
    is enough for a fleet. Metrics have names of pipelines and models in them, and no text of a document. The spend
    needs DOCMILL_PRICES. Workers count their own work: see DOCMILL_METRICS_PORT.
    """
    from storage.results.backlog import read_backlog
    from worker.metrics.fleet import FleetCollector
    from worker.metrics.server import exposition, serving
    from worker.prices import read_prices
    from worker.queue.messages import ENQUEUE_LANE
    from worker.settings import LANES

    settings = settings_from()
    prices = read_prices(settings)
    stop_as_interrupt()
    with open_store(settings) as database, queue_of(settings) as broker:
        depths = None if broker is None else lambda: {lane: broker.depth(lane) for lane in (*LANES, ENQUEUE_LANE)}
        collector = FleetCollector(lambda: read_backlog(database, LANES), depths, prices)
        if once:
            answer(exposition(collector), nl=False)
            return OK
        with serving(collector, host, port) as url, suppress(KeyboardInterrupt):
            say(f"Metrics: {url} (Ctrl-C ends it)")
            threading.Event().wait()
    return OK
