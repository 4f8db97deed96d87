"""Orders while the database, the hub or their reader is away: each is carried out once, and its sender sees it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from sqlalchemy import func, select, update

from storage.database import Database, db_now
from storage.errors import DatabaseBusy, NoSuchOrder
from storage.flow import orders
from storage.intake.ingest import CHUNK_RECORDS
from storage.schema import Document, EnqueueOrder, Job
from tests.faults.mill import Mill, numbered
from tests.faults.servers import PostgresCluster, free_port
from tests.kinds import KINDS
from tests.tasks.hub_server import hub
from tests.worker.harness import EXAMPLES, Running, device_pids, kill_group, until
from worker.messages import ENQUEUE_LANE, queue, redis_key

N = CHUNK_RECORDS + 1000  # three chunks, the first of which is small


def send(mill: Mill, **arguments: Any) -> str:
    """Give an order as any Celery app does; the id that its sender has for it."""
    asked = {"source": str(mill.folder / "corpus.jsonl"), "task": "translate", "model": "null", **arguments}
    app = Celery(broker=mill.redis_url, set_as_current=False)
    sent: str = app.send_task("docmill.enqueue", queue=f"docmill:{queue(ENQUEUE_LANE)}", kwargs=asked).id
    app.close()
    return str(arguments.get("order_id", sent))


def taking(mill: Mill, **more: Any) -> AbstractContextManager[Running]:
    """A worker that takes orders."""
    return mill.worker(lanes="translate,enqueue", order_roots=mill.folder, **more)


def waiting(mill: Mill) -> int:
    """Return the number of orders that no worker has taken out of the queue."""
    assert mill.redis_url is not None
    with redis.Redis.from_url(mill.redis_url) as client:
        depth = client.llen(redis_key(ENQUEUE_LANE))
        assert isinstance(depth, int)
        return depth


def held_by_nobody(mill: Mill) -> bool:
    """Return True if no worker has a message that it has not acknowledged."""
    assert mill.redis_url is not None
    with redis.Redis.from_url(mill.redis_url) as client:
        return bool(client.hlen("docmill:unacked") == 0)


def order(mill: Mill, sender_id: str) -> dict[str, Any]:
    """An order as its sender sees it."""
    found: dict[str, Any] = mill.json("orders", sender_id)
    return found


def row(mill: Mill, sender_id: str) -> Any:
    """The order in the store, None before it is stored."""
    with suppress(NoSuchOrder):
        return orders.get(mill.database, sender_id)
    return None


def done(mill: Mill, sender_id: str) -> Callable[[], bool]:
    return lambda: getattr(row(mill, sender_id), "state", None) == "done"


def over(mill: Mill, sender_id: str) -> Callable[[], bool]:
    return lambda: getattr(row(mill, sender_id), "finished_at", None) is not None


def count(mill: Mill, table: Any) -> int:
    with mill.database.read() as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0


def check_carried_out_once(mill: Mill, sender_id: str, n: int) -> None:
    seen = order(mill, sender_id)
    assert (seen["state"], seen["job"], seen["reason"]) == ("done", 1, None)
    assert (count(mill, Job), count(mill, Document)) == (1, n)
    assert count(mill, EnqueueOrder) == 1


def test_an_order_that_is_sent_twice_is_carried_out_once_and_its_sender_sees_its_job(mill: Mill) -> None:
    mill.corpus(numbered(5))
    for _ in range(2):
        sent = send(mill, order_id="nightly 2026-11-27")
    with taking(mill):
        until(done(mill, sent), "the order is carried out")
        mill.finish(1)
        until(lambda: waiting(mill) == 0 and held_by_nobody(mill), "both messages were looked at")
    check_carried_out_once(mill, sent, 5)
    assert "Traceback" not in mill.log("worker")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL])
def test_an_order_whose_worker_ends_while_it_reads_is_carried_on_by_the_next(mill: Mill, end: signal.Signals) -> None:
    mill.corpus(numbered(N))
    with taking(mill, fault="enqueue:hang@1") as first:
        sent = send(mill)
        until(mill.strikes, "the source is being read")
        seen = order(mill, sent)
        assert (seen["state"], seen["job"]) == ("reading", 1)
        if end is signal.SIGKILL:
            kill_group(first)
        else:
            first.send_signal(end)
            assert first.wait(60) == 0
            assert order(mill, sent)["state"] == "waiting", "it was given back"
    assert waiting(mill) == 0, "its message is not needed any more"
    with taking(mill):
        until(done(mill, sent), "the order is carried on")
        mill.finish(1)
    check_carried_out_once(mill, sent, N)


def test_an_order_whose_device_process_is_killed_while_it_reads_is_carried_on(mill: Mill) -> None:
    mill.corpus(numbered(N))
    with taking(mill, fault="enqueue:kill@2"):
        sent = send(mill)
        until(mill.strikes, "the process is killed")
        until(done(mill, sent), "the order is carried on")
        mill.finish(1)
    check_carried_out_once(mill, sent, N)
    assert orders.get(mill.database, sent).failures == 1


def freeze(mill: Mill, pids: list[int]) -> None:
    """Freeze processes at a moment when none of them holds the lock of a SQLite file, which nobody could take."""

    def frozen() -> bool:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        probe = Database(mill.environment["DOCMILL_DATABASE_URL"], retries=1, busy_timeout_s=0.5, kinds=KINDS)
        try:
            probe.write(lambda connection: connection.execute(select(1)))
        except DatabaseBusy:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            return False
        finally:
            probe.close()
        return True

    until(frozen, "they are frozen without the lock")


def test_an_order_whose_reader_is_frozen_past_its_lease_is_carried_out_once(mill: Mill) -> None:
    mill.corpus(numbered(N))
    with taking(mill, fault="enqueue:hang@1") as first:
        sent = send(mill)
        until(mill.strikes, "the source is being read")
        mill.move_to_another_machine()
        frozen = [first.pid, *device_pids(first)]
        freeze(mill, frozen)
        try:
            with taking(mill):
                until(done(mill, sent), "another carries it on")
                mill.finish(1)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        until(lambda: "lease_lost" in mill.log("worker"), "the first one notices")
    check_carried_out_once(mill, sent, N)


def test_an_order_whose_job_was_read_before_its_reader_died_is_not_read_again(mill: Mill) -> None:
    mill.corpus(numbered(5))
    sent = send(mill)
    with taking(mill):
        until(done(mill, sent), "the order is carried out")
        mill.finish(1)
    unsaid = {"state": "reading", "finished_at": None, "owner": "dead", "lease_until": db_now() - 1}
    mill.database.write(lambda connection: connection.execute(update(EnqueueOrder).values(**unsaid)))
    with taking(mill):
        until(done(mill, sent), "its end is noted")
    check_carried_out_once(mill, sent, 5)


def test_a_job_that_is_cancelled_while_its_order_is_read_ends_the_order(mill: Mill) -> None:
    mill.corpus(numbered(N))
    with taking(mill, fault="enqueue:hang@1") as first:
        sent = send(mill)
        until(mill.strikes, "the source is being read")
        mill("cancel", 1)
        kill_group(first)
    with taking(mill):
        until(over(mill, sent), "the order is over")
    seen = order(mill, sent)
    assert (seen["state"], seen["job"], seen["reason"]) == ("refused", 1, "job 1 was cancelled")
    assert count(mill, Job) == 1


def test_an_order_that_is_cancelled_while_it_is_read_ends_with_its_job(mill: Mill) -> None:
    mill.corpus(numbered(N))
    with taking(mill, fault="enqueue:hang@1"):
        sent = send(mill)
        until(mill.strikes, "the source is being read")
        assert mill.json("orders", sent, "--cancel")["state"] == "cancelled"
        until(lambda: "lease_lost" in mill.log("worker"), "its reader notices")
    with taking(mill):
        next_one = send(mill, order_id="next")
        until(done(mill, next_one), "others are carried out")
    assert order(mill, sent)["state"] == "cancelled"
    assert mill.state(1) == "cancelled"
    assert order(mill, next_one)["job"] == 2


def test_an_order_that_comes_while_the_file_is_locked_is_stored_once_it_is_not(
    tmp_path: Path, sqlite_url: str, redis_url: str
) -> None:
    database = Database(sqlite_url, kinds=KINDS)
    mill = Mill(tmp_path, database, redis_url)
    mill.corpus(numbered(5))
    with taking(mill):
        until(mill.live, "the worker is there")
        with database.engine.connect() as other:
            other.exec_driver_sql("ROLLBACK")
            other.exec_driver_sql("BEGIN IMMEDIATE")
            sent = send(mill)
            until(lambda: waiting(mill) == 0, "the message is taken")
            assert not held_by_nobody(mill), "it is not acknowledged"
            other.exec_driver_sql("ROLLBACK")
        until(lambda: held_by_nobody(mill), "it is acknowledged once it is stored")
        until(done(mill, sent), "the order is carried out")
        mill.finish(1)
    check_carried_out_once(mill, sent, 5)
    database.close()


@pytest.mark.parametrize("stopped", [False, True], ids=["the worker goes on", "the worker is told to stop"])
def test_an_order_that_comes_while_the_database_is_away_is_stored_once_it_is_there(
    tmp_path: Path, restartable: Database, own_postgres: PostgresCluster, redis_url: str, stopped: bool
) -> None:
    mill = Mill(tmp_path, restartable, redis_url)
    mill.corpus(numbered(5))
    with taking(mill) as worker:
        until(mill.live, "the worker is there")
        own_postgres.kill()
        sent = send(mill)
        until(lambda: "order_not_stored" in mill.log("worker"), "it is taken, and cannot be stored")
        if stopped:
            worker.send_signal(signal.SIGTERM)
            until(lambda: waiting(mill) == 1, "the message is put back")
            until(lambda: not device_pids(worker), "the device process ends")
        own_postgres.start()
        if stopped:
            assert worker.wait(60) == 0
        with ExitStack() as stack:
            if stopped:
                stack.enter_context(taking(mill))
            until(done(mill, sent), "the order is carried out")
            mill.finish(1)
    check_carried_out_once(mill, sent, 5)


def test_an_order_waits_for_a_hub_that_is_away_and_says_so(mill: Mill) -> None:
    mill.corpus(numbered(5))
    port = free_port()
    mill.environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(mill.folder / "hub"),
    }
    with taking(mill):
        sent = send(mill, model="small/synopsis", task="summarize")
        until(lambda: getattr(row(mill, sent), "reason", None), "it waits")
        seen = order(mill, sent)
        assert (seen["state"], seen["ended_at"]) == ("waiting", None)
        assert "it waits, to be tried again: The hub does not answer for small/synopsis" in seen["reason"]
        with hub("small/synopsis", EXAMPLES / "models" / "synopsis-ddtp", port):
            due = update(EnqueueOrder).values(not_before=0.0)
            mill.database.write(lambda connection: connection.execute(due))
            until(done(mill, sent), "the order is carried out")
    check_carried_out_once(mill, sent, 5)


def test_an_order_that_kills_whoever_reads_it_is_refused_and_the_work_beside_it_is_done(mill: Mill) -> None:
    mill.corpus(numbered(5))
    mill.patch(
        "import os, signal, sys\n"
        "if 'worker.device' in ' '.join(sys.orig_argv):\n"
        "    import worker.orders.desk as desk\n"
        "    desk.prepare = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with taking(mill):
        sent = send(mill)
        until(over(mill, sent), "the order is over")
        seen = order(mill, sent)
        assert (seen["state"], seen["job"]) == ("refused", None)
        assert "the process that read its source died, 3 times" in seen["reason"]
        assert mill.finish(mill.give(numbered(5))).done == 5


def test_a_worker_that_is_not_told_to_takes_no_order_and_the_sender_sees_that_nobody_does(mill: Mill) -> None:
    mill.corpus(numbered(5))
    with mill.worker():
        until(mill.live, "the worker is there")
        sent = send(mill, order_id="mine")
        assert mill.finish(mill.give(numbered(5))).done == 5
        assert waiting(mill) == 1
        told = mill("orders", sent, code=2).stderr
        assert "there is no order mine" in told
        assert "1 in the queue; no live worker takes orders. Nobody carries them out; start one that does" in told
        assert mill.json("orders") == {"orders": [], "in_queue": 1, "workers": 0}
        [finding] = [one for one in mill.json("doctor", code=1) if one["what"] == "orders"]
        assert not finding["ok"]
        assert "docmill worker --lanes" in finding["advice"]
        with taking(mill):
            until(done(mill, sent), "another worker takes it")
            assert mill.json("orders")["workers"] == 1
