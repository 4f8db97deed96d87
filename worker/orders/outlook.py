"""The outlook for orders that wait: their number, and the workers that take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from storage.core.clock import db_now
from storage.core.database import Database
from storage.core.schema import Worker
from storage.leases.dispatch import LIVE_S
from storage.pipelines import orders
from worker.errors import BrokerUnreachable
from worker.queue.broker import Broker
from worker.queue.messages import ENQUEUE_LANE
from worker.settings import ORDERS

ADVICE = f"start one that does: docmill worker --lanes …,{ORDERS}, with DOCMILL_ORDER_ROOTS or DOCMILL_ORDER_SCHEMES"


@dataclass(frozen=True)
class Outlook:
    """Orders that are stored and not over, messages that no worker took yet, and the workers that take them.

    `in_queue` is None if the queue cannot be asked.
    """

    open: int
    in_queue: int | None
    workers: int

    @property
    def is_stuck(self) -> bool:
        return not self.workers and bool(self.open or self.in_queue)

    def __str__(self) -> str:
        queue = "an unknown number" if self.in_queue is None else f"{self.in_queue:,}"
        takers = f"{self.workers:,} live workers take orders" if self.workers else "no live worker takes orders"
        return f"{self.open:,} stored and not over, {queue} in the queue; {takers}"


def look(database: Database, broker: Broker | None) -> Outlook:
    """Return the outlook as the store and the queue have it now. Raises StorageError."""
    with database.read() as transaction:
        query = select(Worker.lanes).where(Worker.seen_at > db_now() - LIVE_S)
        live: Sequence[Any] = transaction.scalars(query).all()
    in_queue = None
    if broker is not None:
        try:
            in_queue = broker.depth(ENQUEUE_LANE)
        except BrokerUnreachable:
            in_queue = None
    return Outlook(orders.n_open(database), in_queue, sum(ORDERS in lanes for lanes in live))
