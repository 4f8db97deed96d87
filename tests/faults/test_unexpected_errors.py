"""Unclassified errors of the database, raised by a trigger: they cost time and no attempt."""

from __future__ import annotations

import platform

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard
from docmill.storage.leases.diagnosis import check_health
from docmill.storage.pipelines import pipelines
from docmill.storage.results.status import read_status
from docmill.worker.pipelines import running
from docmill.worker.settings import load_settings
from tests.faults.fleet import SHARD_TEXTS, THREADS, Fleet, numbered
from tests.faults.test_runs import LINES, N, fire, hand_out_period_passes, keep, run_of
from tests.worker.harness import until

WORDS = "the archive is closed"
# Writes of a device process: its results, the claim of a shard, and the documents of a scheduled run.
EVENTS = {
    "results": ("INSERT ON outcome", "TRUE"),
    "documents": ("INSERT ON document", "TRUE"),
    "claims": ("UPDATE ON shard", "NEW.state = 'running' AND OLD.state = 'queued'"),
}


def close(database: Database, write_kind: str) -> None:
    """Make the database refuse a kind of write, in words of its own."""
    event, condition = EVENTS[write_kind]
    head = f"CREATE TRIGGER closed BEFORE {event} FOR EACH ROW WHEN ({condition})"
    with database.engine.begin() as connection:
        if database.server is None:
            connection.exec_driver_sql(
                head.replace("WHEN (TRUE)", "") + f" BEGIN SELECT RAISE(ABORT, '{WORDS}'); END"
            )
            return
        connection.exec_driver_sql(
            f"CREATE FUNCTION closed() RETURNS trigger AS $$ BEGIN RAISE '{WORDS}'; END $$ LANGUAGE plpgsql"
        )
        connection.exec_driver_sql(f"{head} EXECUTE FUNCTION closed()")


def reopen(database: Database, write_kind: str) -> None:
    table = EVENTS[write_kind][0].rpartition(" ")[2]
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER closed" + ("" if database.server is None else f" ON {table}"))


@pytest.mark.parametrize("write_kind", ["results", pytest.param("claims", marks=pytest.mark.long)])
def test_an_unclassified_error_spends_no_attempt_and_is_shown_until_its_cause_is_gone(
    fleet: Fleet, write_kind: str
) -> None:
    close(fleet.database, write_kind)
    job = fleet.give(numbered(20 * SHARD_TEXTS), model="null")

    def is_shown() -> bool:
        return WORDS in (read_status(fleet.database, job).waiting_for or "")

    with fleet.worker():
        until(is_shown, "the status says what the database says")
        assert read_status(fleet.database, job).waiting_cause == "store"
        host = platform.node()
        assert WORDS in (check_health(fleet.database, host)[1] or "")
        assert max(row.attempt for row in fleet.shards(Shard.attempt)) <= 1
        assert fleet.states()["running"] <= THREADS, "it takes no more work"
        reopen(fleet.database, write_kind)
        status = fleet.finish(job, 120)
        until(lambda: check_health(fleet.database, host)[1] is None, "the worker is well again")
    assert (status.done, status.failed, status.waiting_for) == (20 * SHARD_TEXTS, 0, None)
    shards = fleet.shards(Shard.attempt, Shard.fence, Shard.suspect)
    assert {(row.attempt, row.fence, row.suspect) for row in shards} == {(1, 1, 0)}, "nothing was computed again"
    assert "Traceback" not in fleet.log("worker")


def test_a_worker_that_ends_while_the_database_takes_no_results_gives_its_shards_back(fleet: Fleet) -> None:
    close(fleet.database, "results")
    job = fleet.give(numbered(3 * SHARD_TEXTS))
    with fleet.worker():
        until(lambda: WORDS in (read_status(fleet.database, job).waiting_for or ""), "the status says so")
    shards = fleet.shards(Shard.state, Shard.attempt, Shard.suspect)
    assert {row.state for row in shards} <= {"planned", "queued"}
    assert {(row.attempt, row.suspect) for row in shards} == {(0, 0)}
    reopen(fleet.database, "results")
    with fleet.worker():
        assert fleet.finish(job).done == 3 * SHARD_TEXTS


def test_a_scheduled_run_that_meets_an_unclassified_error_is_handed_out_again(fleet: Fleet) -> None:
    (fleet.folder / "corpus.jsonl").write_bytes(LINES)
    keep(fleet.database, fleet.folder, "corpus.jsonl")
    run_id = fire(fleet.database)
    close(fleet.database, "documents")
    settings, broker = load_settings(home=fleet.folder / "home"), fleet.broker()
    running.advance(settings, fleet.database, broker, run_id, owner="w1")
    assert run_of(fleet.database, run_id).state in {"due", "reading"}, run_of(fleet.database, run_id).reason
    reopen(fleet.database, "documents")
    hand_out_period_passes(fleet.database)
    assert pipelines.hand_out(fleet.database) == [run_id]
    running.advance(settings, fleet.database, broker, run_id, owner="w1")
    broker.close()
    assert run_of(fleet.database, run_id).state == "running"
    assert read_status(fleet.database, 1).documents == N
