"""Offer a job's shards to the queue while its source is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from storage.core.database import Database
from worker.errors import BrokerUnreachable
from worker.queue.broker import Broker
from worker.queue.dispatcher import top_up

NO_QUEUE = "DOCMILL_REDIS_URL is not set. The job is stored; `docmill worker` picks it up."
TOP_UP_EVERY_S = 2.0


@dataclass
class Offer:
    """Tops the queue up while a long source is read, and remembers why it could not."""

    database: Database
    broker: Callable[[], Broker | None]
    lanes: list[str]
    only_job: int | None
    deferred: str | None = None
    _due: float = 0.0

    def now_and_then(self) -> None:
        if time.monotonic() >= self._due:
            self.now()

    def now(self) -> None:
        try:
            broker = self.broker()
            if broker is not None:
                top_up(self.database, broker, self.lanes, only_job=self.only_job)
            self.deferred = NO_QUEUE if broker is None else None
        except BrokerUnreachable as error:
            self.deferred = f"{error} The job is stored; a worker picks it up when Redis is back."
        self._due = time.monotonic() + TOP_UP_EVERY_S
