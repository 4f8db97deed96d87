"""The supervisor's work on the store, on a thread, because an unreachable database must not delay a signal."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from storage.core.database import Database
from storage.deletion import retention
from storage.errors import StorageError
from storage.leases import dispatch, grace, maintenance
from storage.leases.grace import PARTS
from storage.leases.shards import LEASE_S
from storage.pipelines import orders, pipelines
from worker.errors import BrokerUnreachable
from worker.pids import is_gone, pid_space
from worker.pipelines.due import round_of_schedules
from worker.queue.broker import Broker
from worker.queue.dispatcher import round_of_upkeep, send_again

log = logging.getLogger("docmill.caretaker")

UPKEEP = "upkeep"
SWEEP_EVERY_S = 3_600.0
LAST_WORDS_S = 5.0  # how long the end waits for what is still to be written


@dataclass(frozen=True)
class Burial:
    """A device process that is no more. What it held is free, and suspected unless it was stopped on purpose."""

    owner: str
    on_purpose: bool


class Caretaker:
    """Frees what dead device processes held, and does the upkeep while it is ours; `fires` schedules with it. It
    frees shards and runs, and orders where its worker `takes_orders`.

    With `retention_s`, rows of work that ended longer ago are deleted.

    With `only_job` it offers no other job's shards, as long as nobody but us works here. `lease_s` is how long the
    leases of all workers last.
    """

    only_job: int | None = None

    def __init__(
        self,
        database: Database,
        broker: Broker,
        owner: str,
        every_s: float,
        lease_s: float = LEASE_S,
        *,
        fires: bool = True,
        takes_orders: bool = False,
        retention_s: float | None = None,
    ) -> None:
        self._database = database
        self._broker = broker
        self._owner = owner
        self._every_s = every_s
        self._lease_s = lease_s
        self._contact_s = min(every_s, lease_s / PARTS)
        self._fires = fires
        self._takes_orders = takes_orders
        self._retention_s = retention_s
        self._sweep_due = 0.0
        self._burials: list[Burial] = []
        self._own: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def adopt(self, owner: str) -> None:
        """Leave a device process to its supervisor, who alone knows how it came to its end."""
        self._own.add(owner)

    def reap(self, owner: str, *, on_purpose: bool = False) -> None:
        """Have the shards of a dead process freed, at once if the store is there. Returns at once."""
        with self._lock:
            self._burials.append(Burial(owner, on_purpose))
        self._wake.set()

    def stop(self) -> None:
        """Do what is left, give the upkeep up and end; a store that is away is not waited for."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(LAST_WORDS_S)

    def _run(self) -> None:
        due = contact_due = 0.0
        while True:
            self._wake.clear()
            if self._stop.is_set():  # asked after that, so that its wake is not lost
                break
            if self._bury_all():
                due = 0.0  # others may take up at once what was freed
            if time.monotonic() >= contact_due:
                contact_due = time.monotonic() + self._contact_s
                self._try(lambda: grace.contact(self._database, self._lease_s))
            if time.monotonic() >= due:
                due = time.monotonic() + self._every_s
                self._upkeep()
            self._wake.wait(max(0.0, min(due, contact_due) - time.monotonic()))
        self._bury_all()
        self._try(lambda: maintenance.let_go(self._database, UPKEEP, self._owner))

    def _bury_all(self) -> bool:
        """Return True if there were dead processes and all are reaped. The others are tried again later."""
        with self._lock:
            burials, self._burials = self._burials, []
        left = [burial for burial in burials if not self._try(partial(self._bury, burial))]
        with self._lock:
            self._burials += left
        return bool(burials) and not left

    def _bury(self, burial: Burial) -> None:
        free = maintenance.release_owner if burial.on_purpose else maintenance.reclaim
        free(self._database, burial.owner)
        pipelines.let_go_all(self._database, burial.owner)
        dispatch.sign_off(self._database, burial.owner)
        if self._takes_orders:
            orders.let_go_all(self._database, burial.owner, died=not burial.on_purpose)
        send_again(self._database, self._broker)

    def _upkeep(self) -> None:
        self._try(self._bury_neighbours)
        self._try(self._round)

    def _bury_neighbours(self) -> None:
        """Workers of this machine whose supervisor died with them: their leases need not be waited for."""
        space = pid_space()
        if space is None:
            return
        for owner, pid in dispatch.neighbours(self._database, space):
            if owner not in self._own and is_gone(pid):
                log.warning("neighbour_died owner=%s", owner)
                self._bury(Burial(owner, on_purpose=False))

    def _round(self) -> None:
        if maintenance.hold(self._database, UPKEEP, self._owner, 3 * self._every_s + 1):
            others = self.only_job is not None and dispatch.live_workers(self._database) - self._own
            only_job = None if others else self.only_job
            round_of_upkeep(self._database, self._broker, self._lease_s, only_job=only_job)
            if self._fires:
                round_of_schedules(self._database, self._broker)
            self._sweep()

    def _sweep(self) -> None:
        """Forget what ended long ago, once in a while."""
        if self._retention_s is not None and time.monotonic() >= self._sweep_due:
            self._sweep_due = time.monotonic() + SWEEP_EVERY_S
            retention.sweep(self._database, self._retention_s)

    def _try(self, act: Callable[[], object]) -> bool:
        try:
            act()
        except (StorageError, BrokerUnreachable) as error:
            log.warning("caretaker_waits error=%s", error)
            return False
        except Exception:
            # A bug, or a queue that was closed beneath us because the worker ends: what else there is to do still is.
            if not self._stop.is_set():
                log.exception("caretaker_failed")
            return False
        return True
