"""A fleet at a glance: lanes, workers and the latest failures."""

from __future__ import annotations

from docmill.storage.core.database import Database
from docmill.storage.ingest import ingest
from docmill.storage.ingest.chunks import Rejected
from docmill.storage.leases import dispatch
from docmill.storage.results.overview import read_overview
from docmill.storage.steps import jobs
from tests.storage.builders import claim_next, dispatched, failed, numbered, read, records, request, work
from tests.storage.leases.test_dispatch import sign_on

LANES = ("copy", "embed")


def test_an_empty_store_has_nothing_to_show(database: Database) -> None:
    found = read_overview(database, LANES)
    assert (found.lanes, found.workers, found.failures) == ((), (), ())


def test_lanes_have_their_open_shards_by_state(database: Database) -> None:
    read(database, request(), numbered(6), chunk=2)
    sign_on(database, "w1")
    claim_next(database)
    (lane,) = read_overview(database, LANES).lanes
    assert (lane.lane, lane.running) == ("copy", 1)
    assert lane.planned + lane.queued == 2
    assert lane.oldest_s >= 0
    paused = read(database, request("b.jsonl"), numbered(2, first=10))
    jobs.pause(database, paused.id)
    assert sum((lane.planned, lane.queued)) == 2


def test_a_worker_has_its_load_and_what_it_refuses(database: Database) -> None:
    read(database, request(), numbered(6), chunk=2)
    sign_on(database, "w1")
    sign_on(database, "w2")
    claim_next(database, "w1")
    dispatch.refuse(database, "w2", 1, "no weights")
    one, other = read_overview(database, LANES).workers
    assert (one.held, one.refusals, one.problem) == (1, (), None)
    assert (other.held, other.refusals) == (0, ("no weights",))
    assert one.slots >= 1


def test_the_latest_failures_name_their_documents(database: Database) -> None:
    read(database, request(), numbered(3))
    assert dispatched(database)
    work(database, failed)
    found = read_overview(database, LANES, failures=2).failures
    assert [(one.job, one.document) for one in found] == [(1, "k0"), (1, "k1")]
    assert all(one.reason for one in found)


def test_rejected_records_of_the_last_day_are_failures_too(database: Database) -> None:
    job = jobs.open_job(database, request())
    ingest.add(database, job, records(numbered(1)), [Rejected(f"a.jsonl:{n}", "not JSON") for n in (2, 3)])
    ingest.end(database, job)
    work(database)
    found = read_overview(database, LANES).failures
    assert [(one.job, one.document, one.reason) for one in found] == [
        (job.id, f"a.jsonl:{n}", "rejected: not JSON") for n in (2, 3)
    ]
    assert len(read_overview(database, LANES, failures=1).failures) == 1
    database.write(lambda transaction: transaction.exec_driver_sql("UPDATE ingest SET seen_at = seen_at - 90000"))
    assert read_overview(database, LANES).failures == ()
