"""Top the queue up to its window, and run a round of maintenance. Both are safe to call at any time, concurrently."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from docmill.storage import fault_points
from docmill.storage.core.database import Database
from docmill.storage.leases import dispatch, maintenance
from docmill.storage.leases.dispatch import LaneWindow
from docmill.storage.steps import jobs
from docmill.worker.errors import BrokerUnreachable

if TYPE_CHECKING:
    from docmill.worker.queue.broker import Broker

log = logging.getLogger("docmill.maintenance")

GRACE_S = 30.0  # how long a queued shard is believed to have its message


def top_up(database: Database, broker: Broker, lanes: Collection[str], *, only_job: int | None = None) -> None:
    """Offer planned shards of these lanes (of one job, or of all) to the queue, up to each lane's window.

    Raises BrokerUnreachable; then shards that could not be sent are planned as before.
    """
    for lane in dispatch.lanes(database, only_job=only_job):
        if lane.name in lanes:
            _fill(database, broker, lane)


@dataclass
class Refill:
    """Tops a lane up when half of its window is taken, so that most shards end with one question to Redis.

    The size of the window is from the last top-up. Maintenance tops up regardless of the queue's depth. Threads may
    share a Refill.
    """

    database: Database
    broker: Broker
    only_job: int | None = None
    _halves: dict[str, int] = field(default_factory=dict)

    def after_shard(self, lane: str) -> None:
        """Top the lane up if its queue is low. Raises BrokerUnreachable."""
        half = self._halves.get(lane)
        if half is not None and self.broker.depth(lane) >= half:
            return
        for waiting in dispatch.lanes(self.database, lane, self.only_job):
            self._halves[lane] = waiting.window // 2
            _fill(self.database, self.broker, waiting)


def _fill(database: Database, broker: Broker, lane: LaneWindow) -> None:
    broker.ping()  # so that nothing is marked as queued while Redis is away
    ahead, behind = dispatch.take(database, lane)
    _send(database, broker, lane.name, behind, ahead)


def _send(database: Database, broker: Broker, lane: str, shard_ids: list[int], ahead: Sequence[int] = ()) -> None:
    """Publish shards behind the waiting ones, and the shards in `ahead` before them.

    If any cannot be sent, mark all as planned again.
    """
    try:
        broker.publish(lane, ahead, ahead=True)
        broker.publish(lane, shard_ids)
    except BrokerUnreachable:
        dispatch.put_back(database, [*ahead, *shard_ids])
        raise


def send_again(database: Database, broker: Broker, *, only_job: int | None = None) -> None:
    """Send the hints of queued shards (of one job, or of all) again: a dead process may have taken them without a
    claim.

    A hint that was not lost arrives twice, and the second one does nothing. Raises BrokerUnreachable.
    """
    lost = partial(maintenance.lost_hints, database, queue_is_empty=True, grace_s=0.0, only_job=only_job)
    for lane in dispatch.lanes(database, only_job=only_job):
        if lane.queued:
            _send(database, broker, lane.name, lost(lane.name))


def round_of_maintenance(
    database: Database,
    broker: Broker,
    lease_s: float,
    *,
    only_job: int | None = None,
    lost_level: int = logging.WARNING,
) -> None:
    """Reclaim lapsed shards, end finished jobs, send lost hints again and top up (one job, or all).

    All leases are extended once, by their duration `lease_s`, after the store was unreachable. Lost hints are logged
    at `lost_level`. Raises BrokerUnreachable, after all work that needs no Redis is done.
    """
    before = maintenance.contact(database, lease_s)
    if n := maintenance.reclaim(database, before=before):
        log.warning("leases_lapsed shards=%d", n)
    for job_id in jobs.finish(database):
        log.info("job_ended job=%d", job_id)
    fault_points.reach("upkeep")
    maintenance.forget_workers(database)
    find_lost = partial(maintenance.lost_hints, database, grace_s=GRACE_S, only_job=only_job)
    for lane in dispatch.lanes(database, only_job=only_job):
        if lane.queued:
            lost = find_lost(lane.name, queue_is_empty=broker.depth(lane.name) == 0)
            if lost:
                log.log(lost_level, "hints_lost lane=%s shards=%d", lane.name, len(lost))
                _send(database, broker, lane.name, lost)
        _fill(database, broker, lane)
