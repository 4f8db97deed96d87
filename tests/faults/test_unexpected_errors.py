"""Errors of the database that nobody classified, raised by a trigger: they cost time and no attempt."""

from __future__ import annotations

import platform

import pytest

from storage.database import Database
from storage.flow import pipelines
from storage.leases.health import health
from storage.schema import Shard
from storage.status import read_status
from tests.faults.mill import SHARD_TEXTS, Mill, numbered
from tests.faults.test_runs import LINES, N, fire, hand_out_period_passes, keep, run_of
from tests.worker.harness import until
from worker.pipelines import running
from worker.settings import load_settings

WORDS = "the archive is closed"
# Writes of a device process: its results, the claim of a shard, and the documents of a scheduled run.
EVENTS = {
    "results": ("INSERT ON outcome", "TRUE"),
    "documents": ("INSERT ON document", "TRUE"),
    "claims": ("UPDATE ON shard", "NEW.state = 'running' AND OLD.state = 'queued'"),
}


def close(database: Database, what: str) -> None:
    """Have the database refuse a kind of write, in words of its own."""
    event, condition = EVENTS[what]
    head = f"CREATE TRIGGER closed BEFORE {event} FOR EACH ROW WHEN ({condition})"
    with database.engine.begin() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql(
                head.replace("WHEN (TRUE)", "") + f" BEGIN SELECT RAISE(ABORT, '{WORDS}'); END"
            )
            return
        connection.exec_driver_sql(
            f"CREATE FUNCTION closed() RETURNS trigger AS $$ BEGIN RAISE '{WORDS}'; END $$ LANGUAGE plpgsql"
        )
        connection.exec_driver_sql(f"{head} EXECUTE FUNCTION closed()")


def reopen(database: Database, what: str) -> None:
    table = EVENTS[what][0].rpartition(" ")[2]
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER closed" + ("" if database.is_sqlite else f" ON {table}"))


@pytest.mark.parametrize("what", ["results", "claims"])
def test_an_error_that_nobody_classified_spends_no_attempt_is_shown_and_goes_when_its_cause_goes(
    mill: Mill, what: str
) -> None:
    close(mill.database, what)
    job = mill.give(numbered(5 * SHARD_TEXTS))

    def shown() -> bool:
        return WORDS in (read_status(mill.database, job).waiting_for or "")

    with mill.worker():
        until(shown, "the status says what the database says")
        assert read_status(mill.database, job).waiting_cause == "store"
        host = platform.node()
        assert WORDS in (health(mill.database, host).problem or "")
        assert max(row.attempt for row in mill.shards(Shard.attempt)) <= 1
        reopen(mill.database, what)
        status = mill.finish(job, 120)
        until(lambda: health(mill.database, host).problem is None, "the worker is well again")
    assert (status.done, status.failed, status.waiting_for) == (5 * SHARD_TEXTS, 0, None)
    shards = mill.shards(Shard.attempt, Shard.fence, Shard.suspect)
    assert {(row.attempt, row.fence, row.suspect) for row in shards} == {(1, 1, 0)}, "nothing was computed again"
    assert "Traceback" not in mill.log("worker")


def test_while_the_database_takes_no_results_a_worker_takes_no_more_work(mill: Mill) -> None:
    close(mill.database, "results")
    job = mill.give(numbered(20 * SHARD_TEXTS), model="null")
    with mill.worker():
        until(lambda: WORDS in (read_status(mill.database, job).waiting_for or ""), "the status says so")
        assert mill.states()["running"] <= 3, "as many as it has threads"
        mill("cancel", job)
        other = mill.give(numbered(SHARD_TEXTS, first=5_000))
        reopen(mill.database, "results")
        assert mill.finish(other, 120).done == SHARD_TEXTS
    mill.finish(job, state="cancelled")


def test_a_worker_that_ends_while_the_database_takes_no_results_gives_its_shards_back(mill: Mill) -> None:
    close(mill.database, "results")
    job = mill.give(numbered(3 * SHARD_TEXTS))
    with mill.worker():
        until(lambda: WORDS in (read_status(mill.database, job).waiting_for or ""), "the status says so")
    shards = mill.shards(Shard.state, Shard.attempt, Shard.suspect)
    assert {row.state for row in shards} <= {"planned", "queued"}
    assert {(row.attempt, row.suspect) for row in shards} == {(0, 0)}
    reopen(mill.database, "results")
    with mill.worker():
        assert mill.finish(job).done == 3 * SHARD_TEXTS


def test_a_scheduled_run_that_meets_an_error_that_nobody_classified_is_handed_out_again(mill: Mill) -> None:
    (mill.folder / "corpus.jsonl").write_bytes(LINES)
    keep(mill.database, mill.folder, "corpus.jsonl")
    run_id = fire(mill.database)
    close(mill.database, "documents")
    settings, broker = load_settings(home=mill.folder / "home"), mill.broker()
    running.advance(settings, mill.database, broker, run_id, owner="w1")
    assert run_of(mill.database, run_id).state in {"due", "reading"}, run_of(mill.database, run_id).reason
    reopen(mill.database, "documents")
    hand_out_period_passes(mill.database)
    assert pipelines.hand_out(mill.database) == [run_id]
    running.advance(settings, mill.database, broker, run_id, owner="w1")
    broker.close()
    assert run_of(mill.database, run_id).state == "running"
    assert read_status(mill.database, 1).documents == N
