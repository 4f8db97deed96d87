"""Finish everything in a store that can be finished, and check that all of it is there."""

from __future__ import annotations

from sqlalchemy import delete, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Refusal, Shard
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases import dispatch, maintenance
from docmill.storage.results.status import list_statuses, read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import UNFINISHED
from tests.storage import laws
from tests.storage.builders import finish, queued, read, request, work


def let_everything_finish(database: Database) -> None:
    """Work off each job that was not cancelled or stopped, and look whether nothing was lost or changed by that.

    Whoever had something in hand has gone by now. Sources whose reading was cut off have nothing more to say.
    """
    for status in list_statuses(database):
        jobs.resume(database, status.id)
    before = laws.look(database)
    unfinished = {job.id for job in before.jobs.values() if job.state in UNFINISHED}
    dispatch.put_back(database, queued(database))
    for owner in {row.owner for row in before.shards.values() if row.state == "running"}:
        maintenance.release_owner(database, owner)
    database.write(_let_time_pass)
    work(database)
    while being_read := [status for status in list_statuses(database) if status.state == "ingesting"]:
        for status in being_read:  # of those that ask for the same each round ends one
            read(database, request(status.source, corpus=status.corpus, spec=status.spec), [])
        finish(database)
    jobs.finish(database)
    after = laws.look(database)
    laws.assert_lawful(database, after)
    laws.assert_quiet(after)
    laws.assert_follows(before, after)
    laws.assert_complete(database, after)
    for job_id in after.jobs:
        laws.assert_adds_up(after, read_status(database, job_id))
    assert {after.jobs[job_id].state for job_id in unfinished} <= {"done", "stopped"}


def _let_time_pass(transaction: Transaction) -> None:
    """Nothing waits after an error any more, and nobody's refusal holds."""
    transaction.execute(update(Shard).where(Shard.state == "planned").values(not_before=0.0))
    transaction.execute(delete(Refusal))
