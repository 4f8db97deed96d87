"""The supervisor's work on the store, on a thread, because an unreachable database must not delay a signal."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from docmill.storage.core.database import Database
from docmill.storage.deletion import retention
from docmill.storage.deletion.retention import Ages
from docmill.storage.errors import StorageError
from docmill.storage.leases import dispatch, maintenance
from docmill.storage.leases.maintenance import PARTS
from docmill.storage.leases.shards import LEASE_S
from docmill.storage.pipelines import pipelines
from docmill.worker.concurrency import is_gone, pid_space
from docmill.worker.errors import BrokerUnreachable
from docmill.worker.pipelines.schedule import BadSchedule, due
from docmill.worker.queue.broker import Broker
from docmill.worker.queue.dispatcher import round_of_maintenance, send_again
from docmill.worker.queue.messages import RUN_LANE

log = logging.getLogger("docmill.maintenance")
pipelines_log = logging.getLogger("docmill.pipelines")

UPKEEP = "upkeep"  # the name of the lease in the database, which workers of two releases share
SWEEP_EVERY_S = 3_600.0
STOP_WAIT_S = 5.0  # the longest time that `stop` waits for the last writes
_Free = Callable[[Database, str], int]  # frees the shards of an owner


@dataclass
class MaintenanceThread:
    """Reaps dead device processes, and does maintenance while this supervisor holds its lease.

    Reaping frees shards and runs. With `fires`, maintenance starts scheduled runs. With `ages`, it deletes rows of
    work that ended longer ago. With `only_job`, it offers no other job's shards while no other worker lives.
    `lease_s` is the duration of all workers' leases. A queue of its own (`has_own_queue`) reaches no other worker: it
    is maintained without the lease, and gets no other job's shards although others live.
    """

    database: Database
    broker: Broker
    owner: str
    every_s: float
    lease_s: float = LEASE_S
    fires: bool = True
    ages: Ages | None = None
    only_job: int | None = None
    has_own_queue: bool = False
    is_resting: bool = False
    _sweep_due: float = 0.0
    _dead: dict[str, _Free] = field(default_factory=dict)  # by owner
    _own: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _wake: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def adopt(self, owner: str) -> None:
        """Register a child of this supervisor, which alone knows how the child ended."""
        self._own.add(owner)

    def reap(self, owner: str, *, on_purpose: bool = False) -> None:
        """Request that the shards of a dead process are freed as soon as the store answers. Returns at once.

        They are suspects unless it was stopped on purpose.
        """
        with self._lock:
            self._dead[owner] = maintenance.release_owner if on_purpose else maintenance.reclaim
        self._wake.set()

    def rest(self) -> None:
        """Do nothing but reap until `serve`."""
        self.is_resting = True

    def serve(self, only_job: int | None) -> None:
        """Maintain the store from now on, with shards of this job alone."""
        self.only_job, self.is_resting = only_job, False
        self._wake.set()

    def stop(self) -> None:
        """Reap the remaining dead processes, release the lease and end, without waiting for an unreachable store."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_WAIT_S)

    def _run(self) -> None:
        due = contact_due = 0.0
        while True:
            self._wake.clear()
            if self._stop.is_set():  # asked after that, so that its wake is not lost
                break
            if self._reap_all():
                due = 0.0  # so that other workers get the freed shards at once
            if self.is_resting:
                self._wake.wait()
                continue
            if time.monotonic() >= contact_due:
                contact_due = time.monotonic() + min(self.every_s, self.lease_s / PARTS)
                self._try(lambda: maintenance.contact(self.database, self.lease_s))
            if time.monotonic() >= due:
                due = time.monotonic() + self.every_s
                self._try(self._reap_neighbors)
                self._try(self._round)
            self._wake.wait(max(0.0, min(due, contact_due) - time.monotonic()))
        self._reap_all()
        self._try(lambda: maintenance.let_go(self.database, UPKEEP, self.owner))

    def _reap_all(self) -> bool:
        """Return True if there were dead processes and all are reaped. The others are tried again later."""
        with self._lock:
            dead, self._dead = self._dead, {}
        left = {owner: free for owner, free in dead.items() if not self._try(partial(self._reap, owner, free))}
        with self._lock:
            self._dead |= left
        return bool(dead) and not left

    def _reap(self, owner: str, free: _Free) -> None:
        free(self.database, owner)
        pipelines.let_go_all(self.database, owner)
        dispatch.sign_off(self.database, owner)
        send_again(self.database, self.broker, only_job=self._offered_job())

    def _reap_neighbors(self) -> None:
        """Reap workers of this machine whose supervisor died with them, without waiting for their leases.

        Nobody saw how they ended, so their shards are no suspects.
        """
        space = pid_space()
        if space is None:
            return
        for owner, pid in dispatch.neighbors(self.database, space):
            if owner not in self._own and is_gone(pid):
                log.warning("neighbor_died owner=%s", owner)
                self._reap(owner, partial(maintenance.reclaim, seen_to_die=False))

    def _round(self) -> None:
        if self.has_own_queue or maintenance.hold(self.database, UPKEEP, self.owner, 3 * self.every_s + 1):
            only_job = self._offered_job()
            # A command's own queue waits for its model to load; a fleet's lost its messages with Redis.
            level = logging.WARNING if only_job is None else logging.INFO
            round_of_maintenance(self.database, self.broker, self.lease_s, only_job=only_job, lost_level=level)
            if self.fires:
                round_of_schedules(self.database, self.broker)
            self._sweep()

    def _offered_job(self) -> int | None:
        """Return the only job whose shards to offer; None for every job's."""
        if self.only_job is None or self.has_own_queue:
            return self.only_job
        return None if dispatch.live_workers(self.database) - self._own else self.only_job

    def _sweep(self) -> None:
        """Delete rows of work that ended long ago, once per `SWEEP_EVERY_S`."""
        if self.ages is not None and time.monotonic() >= self._sweep_due:
            self._sweep_due = time.monotonic() + SWEEP_EVERY_S
            retention.sweep(self.database, self.ages)

    def _try(self, act: Callable[[], object]) -> bool:
        try:
            act()
        except (StorageError, BrokerUnreachable) as error:
            log.warning("maintenance_waits error=%s", error)
            return False
        except Exception:
            # A bug, or a queue that was closed because the worker ends. The thread goes on with its other work.
            if not self._stop.is_set():
                log.exception("maintenance_failed")
            return False
        return True


def round_of_schedules(database: Database, broker: Broker) -> None:
    """Fire each pipeline that has come due since the last look, once, and hand out the runs that wait.

    It uses the database's clock, so any worker may do it. Raises BrokerUnreachable.
    """
    for pipeline in pipelines.scheduled(database):
        try:
            schedule = pipeline.schedule
            due_at = due(schedule["cron"], schedule["timezone"], pipeline.looked_at, pipeline.now)
        except BadSchedule as error:  # of another release, or of a zone that is no more: the others go on
            pipelines_log.error("schedule_unknown pipeline=%s reason=%r", pipeline.name, str(error))
            continue
        if due_at is not None and (run_id := pipelines.fire(database, pipeline, due_at)) is not None:
            pipelines_log.info("pipeline_due pipeline=%s run=%d", pipeline.name, run_id)
    if pipelines.is_any_open(database):
        again = broker.depth(RUN_LANE) == 0  # otherwise no worker has read the earlier request yet
        for run_id in pipelines.hand_out(database, again=again):
            broker.publish_run(run_id)
