"""Make the runs of pipelines that are due, and hand out runs to workers."""

from __future__ import annotations

import logging

from docmill.storage.core.database import Database
from docmill.storage.pipelines import pipelines
from docmill.worker.pipelines.schedule import BadSchedule, Schedule, due
from docmill.worker.queue.broker import Broker

log = logging.getLogger("docmill.pipelines")


def round_of_schedules(database: Database, broker: Broker) -> None:
    """Fire what has come due since it was looked at last, however long that is, once; hand out what waits.

    By the database's clock, so that it does not matter who does it. Raises BrokerUnreachable.
    """
    for found in pipelines.scheduled(database):
        try:
            due_at = due(Schedule(**found.schedule), found.looked_at, found.now)
        except BadSchedule as error:  # of another release, or of a zone that is no more: the others go on
            log.error("schedule_unknown pipeline=%s reason=%r", found.name, str(error))
            continue
        if due_at is not None and (run_id := pipelines.fire(database, found, due_at)) is not None:
            log.info("pipeline_due pipeline=%s run=%d", found.name, run_id)
    if pipelines.is_any_open(database):
        again = broker.waiting_runs() == 0  # else whoever was asked before has not been heard yet
        for run_id in pipelines.hand_out(database, again=again):
            broker.publish_run(run_id)
