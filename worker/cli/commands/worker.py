"""`docmill worker`: start a worker."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from types import FunctionType

import click

from docmill.storage.core import privileges
from docmill.storage.errors import GRANTS_DOCS, RightMissing
from docmill.storage.features import load_all
from docmill.storage.leases import dispatch
from docmill.tasks import tracing
from docmill.worker import logs
from docmill.worker.cli.options import BACKEND, ENDPOINT, Choice, whole_number
from docmill.worker.cli.printing import say
from docmill.worker.engines import choose_devices
from docmill.worker.process.supervisor import Supervisor
from docmill.worker.settings import ENQUEUE_LANE, Settings, load_settings
from docmill.worker.stores import open_broker, open_store


@click.command("worker", epilog="Example: docmill worker --device cuda:0,cuda:1 --lanes embed,translate")
@click.option("--device", help="auto, cpu, cuda, remote, or a list such as cuda:0,cuda:1: one process for each.")
@BACKEND
@ENDPOINT
@click.option(
    "--lanes",
    help="Task kinds to serve, separated by commas; with enqueue also orders.  [default: all but enqueue]",
)
@click.option("--threads", type=whole_number(1, 64), help="Shards in flight in each process.")
@click.option("--log-level", type=Choice(["debug", "info", "warning", "error"]), help="Level of the log on stderr.")
def worker_command(
    device: str | None,
    backend: str | None,
    endpoint: str | None,
    lanes: str | None,
    threads: int | None,
    log_level: str | None,
) -> None:
    """Start a worker: a supervisor with one process for each device.

    After SIGTERM or Ctrl-C, the worker finishes the running batches and gives the rest back; after a second signal,
    it gives everything back at once. Without DOCMILL_REDIS_URL it starts an embedded queue for this machine only.

    Orders are `docmill.enqueue` messages of other programs. A worker takes them only with the lane enqueue, and reads
    only what DOCMILL_ORDER_ROOTS and DOCMILL_ORDER_SCHEMES allow.
    """
    settings = load_settings(
        device=device, backend=backend, endpoint=endpoint, lanes=lanes, threads=threads, log_level=log_level
    )
    logs.start(settings.log_level, settings.log_format, worker=platform.node())
    tracing.start(settings.traces_endpoint)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    devices = choose_devices(settings.device)
    with open_store(settings) as database, open_broker(settings, shared=True) as broker:
        privileges.require(database, privileges.worker_rights())
        settings = _without_orders(settings, privileges.find_missing(database, privileges.order_rights()))
        broker.require_rights(takes_orders=settings.takes_orders)
        say(f"Worker on {', '.join(devices)}: lanes {', '.join(settings.lanes)}; store {database}; queue {broker}.")
        if settings.redis_url is None and not dispatch.live_workers(database):
            dispatch.withdraw(database, settings.lanes)  # the queue of an earlier worker is gone
        supervisor = Supervisor(settings, database, broker, devices)
        with ExitStack() as services:
            for serve in load_all("services", FunctionType):
                services.enter_context(serve(settings, supervisor))
            supervisor.run_with_signals()
    tracing.stop()
    say("Worker stopped; what was under way is committed or given back.")


def _without_orders(settings: Settings, lacking: Sequence[str]) -> Settings:
    """Return settings without the lane of orders if the database user lacks rights for them."""
    if not settings.takes_orders or not lacking:
        return settings

    told = f"the database's user lacks {', '.join(lacking)}; {GRANTS_DOCS}"
    others = tuple(lane for lane in settings.lanes if lane != ENQUEUE_LANE)
    if not others:
        raise RightMissing(f"This worker may take no orders, and has no other lane: {told}")
    say(f"This worker takes no orders: {told}.")
    return settings.model_copy(update={"lanes": others})
