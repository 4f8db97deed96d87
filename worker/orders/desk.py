"""The desk of a device process: it stores orders as they come, and carries each out under a lease."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from storage.core.database import Database
from storage.core.normalize import normalize
from storage.errors import PASSING, DatabaseReadOnly, LeaseLost, RightMissing, SchemaOutOfDate, StorageError
from storage.pipelines import orders
from storage.pipelines.orders import Order
from storage.steps import jobs
from storage.steps.jobs import OpenJob
from tasks.errors import HubUnreachable, TaskError
from worker.concurrency.renewal import Held, renewed
from worker.errors import WorkerError
from worker.orders import bounds, message
from worker.queue.broker import Broker
from worker.settings import Settings
from worker.submit.enqueue import enqueue
from worker.submit.progress import UnderLease
from worker.submit.request import prepare

log = logging.getLogger("docmill.orders")

AT_ONCE = 4  # of one process: reading takes its threads' time from computing
LONGEST_WAIT_S = 5.0  # between two attempts to store an order
LEAST_DELAY_S, LONGEST_DELAY_S = 5.0, 300.0  # until an order that waits is tried again
# Errors that say nothing about an order: the store or the hub is away, or the store is not as it should be.
AWAY = (*PASSING, DatabaseReadOnly, RightMissing, SchemaOutOfDate, HubUnreachable)


@dataclass
class Desk:
    """Takes the orders of one process. `store` is called by Celery's threads, all others are its own."""

    settings: Settings
    database: Database
    broker: Broker
    owner: str
    stop: threading.Event
    is_open: bool = True
    _wake: threading.Event = field(default_factory=threading.Event, init=False)
    _free: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE), init=False)
    _stop_taking: Callable[[], None] = field(default_factory=lambda: lambda: None, init=False)

    def start(self, stop_taking: Callable[[], None]) -> None:
        """Start the thread that carries out stored orders. `stop_taking` has the queue of orders read no more."""
        self._stop_taking = stop_taking
        threading.Thread(target=self._run, name="orders", daemon=True).start()

    def give_back(self) -> None:
        """Free the orders that are being read, since the process ends. Raises StorageError."""
        if self.is_open:
            orders.let_go_all(self.database, self.owner, died=False)

    def store(self, message_id: str, arguments: dict[str, Any]) -> bool:
        """Store an order or its refusal, and wait for a database that is away.

        Return False if the message is for another worker: this one stops, or its user lost the rights for orders.
        """
        sender_id = message.sender_id(message_id, arguments)
        refused = self._refusal(arguments)
        arguments = message.stored(arguments, refused=refused is not None)
        wait_s = 0.5
        while True:
            try:
                is_new = orders.place(self.database, sender_id, arguments, refused, self.settings.ages.get("orders"))
                break
            except RightMissing as error:
                log.error("orders_not_taken reason=%r", str(error))
                self.is_open = False
                self._stop_taking()
                return False
            except StorageError as error:
                log.warning("order_not_stored order=%s error=%s", sender_id, error)
            if self.stop.wait(wait_s):
                return False
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
        if refused is not None and is_new:
            log.error("order_refused order=%s reason=%r", sender_id, refused)
        self._wake.set()
        return True

    def _refusal(self, arguments: dict[str, Any]) -> str | None:
        """Return the reason why the settings or the message itself forbid an order; None if they do not."""
        try:
            bounds.check(self.settings, message.parse_enqueue(arguments))
        except (WorkerError, TaskError, StorageError) as error:
            return normalize(str(error))[0]
        except Exception as error:  # a path that no system call takes, for example
            return f"it cannot be checked: {type(error).__name__}"
        return None

    def _run(self) -> None:
        while self.is_open and not self.stop.is_set():
            self._wake.clear()
            try:
                while self._take():
                    pass
            except StorageError as error:
                log.warning("orders_wait error=%s", error)
            self._wake.wait(self.settings.upkeep_s)

    def _take(self) -> bool:
        """Begin with the next order, if there is one and not too many are being read."""
        if self.stop.is_set() or not self._free.acquire(blocking=False):
            return False
        order = None
        try:
            order = orders.take(self.database, self.owner, self.settings.lease_s)
        finally:
            if order is None:
                self._free.release()
        if order is None:
            return False
        threading.Thread(target=self._carry_out, args=(order,), name=f"order-{order.id}", daemon=True).start()
        return True

    def _carry_out(self, order: Order) -> None:
        try:
            carry_out(self.settings, self.database, self.broker, order, self.stop)
        finally:
            self._free.release()
            self._wake.set()


def carry_out(
    settings: Settings, database: Database, broker: Broker, order: Order, stop: threading.Event | None = None
) -> None:
    """Read an order's source into its job, and note what came of it. Once `stop` is set it is given back."""

    def renew() -> bool:
        return orders.renew(database, order, settings.lease_s)

    with renewed(f"order {order.sender_id}", renew, settings.lease_s, stop=stop) as held:
        try:
            if not _is_settled(database, order):
                _read(settings, database, broker, order, held)
        except LeaseLost as error:
            log.warning("order_left order=%s reason=%r", order.sender_id, str(error))
            with suppress(StorageError):  # then the lease lapses by itself
                orders.give_back(database, order)
        except AWAY as error:
            delay_s = min(LONGEST_DELAY_S, max(LEAST_DELAY_S, order.waited_s / 4))
            log.warning("order_waits order=%s error=%s", order.sender_id, error)
            _put_off(database, order, f"it waits, to be tried again: {error}", delay_s, failed=False)
        except (WorkerError, TaskError, StorageError, OSError) as error:
            _refuse(database, order, str(error))
        except Exception as error:
            log.exception("order_failed order=%s", order.sender_id)
            reason = f"{type(error).__name__} in the worker, whose log says more"
            _put_off(database, order, reason, LEAST_DELAY_S, failed=True)


def _is_settled(database: Database, order: Order) -> bool:
    """Return True for an order that needs no more reading: its job was read, or ended, or it kills its readers."""
    if order.tries > orders.MOST_TRIES:
        _refuse(database, order, f"its reading was begun {order.tries - 1} times, and no worker came to its end")
        return True
    if order.job_id is None:
        return False
    standing = orders.standing(database, order)
    if standing == "reading":
        return False
    if standing == "read":
        orders.end(database, order, "done")
    else:
        _refuse(database, order, f"job {order.job_id} was {standing or 'removed with its corpus'}")
    return True


def _read(settings: Settings, database: Database, broker: Broker, order: Order, held: Held) -> None:
    request = message.parse_enqueue(dict(order.arguments))
    bounds.check(settings, request)
    progress = UnderLease(held, lambda job: _note(database, order, job))
    prepared = replace(prepare(settings, request), request_id=order.sender_id)
    done = enqueue(database, lambda: broker, prepared, progress)
    orders.end(database, order, "done", job_id=done.id)
    log.info("order_done order=%s job=%d planned=%d", order.sender_id, done.id, done.counts.planned)


def _note(database: Database, order: Order, job: OpenJob) -> bool:
    """Store the job's number with its order; an earlier job, of another model or source, is stopped.

    A job that was opened for an order that had been cancelled is cancelled, too: nobody else would.
    """
    if order.job_id not in {None, job.id}:
        jobs.halt(database, int(order.job_id or 0), f"its order is carried out as job {job.id}")
    if orders.note_job(database, order, job.id):
        return True
    if not job.adopted and orders.get(database, order.sender_id).state == "cancelled":
        jobs.cancel(database, job.id)
    return False


def _refuse(database: Database, order: Order, reason: str) -> None:
    log.error("order_refused order=%s reason=%r", order.sender_id, reason)
    with suppress(*AWAY):  # then the lease lapses, and the next one says it
        orders.end(database, order, "refused", reason=reason)


def _put_off(database: Database, order: Order, reason: str, for_s: float, *, failed: bool) -> None:
    with suppress(StorageError):  # then the lease lapses by itself
        orders.put_off(database, order, reason, for_s, failed=failed)
