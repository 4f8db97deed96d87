"""A fleet at a glance: lanes, workers and the latest failures."""

from __future__ import annotations

from storage.core.database import Database
from storage.leases import dispatch
from storage.results.overview import read_overview
from storage.steps import jobs
from tests.storage.builders import claim_next, dispatched, failed, numbered, read, request, work
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
