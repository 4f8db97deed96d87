"""Orders while the database, the hub or their reader is away: each is carried out once, and its sender sees it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from safetensors.torch import load_file, save_file
from sqlalchemy import func, select, update

from storage.core.clock import db_now
from storage.core.database import Database
from storage.core.schema import Document, EnqueueOrder, Job
from storage.errors import DatabaseBusy, NoSuchOrder
from storage.ingest.ingest import CHUNK_RECORDS
from storage.pipelines import orders
from tests.faults.fleet import Fleet, numbered
from tests.faults.servers import PostgresCluster, free_port
from tests.kinds import KINDS
from tests.tasks.hub_server import Hub, environment, hub, serving
from tests.worker.harness import EXAMPLES, Running, device_pids, kill_group, until
from worker.queue.messages import ENQUEUE_LANE, queue

N = CHUNK_RECORDS + 1000  # three chunks, the first of which is small


def send(fleet: Fleet, **arguments: Any) -> str:
    """Give an order as any Celery app does; the id that its sender has for it."""
    asked = {"source": str(fleet.folder / "corpus.jsonl"), "task": "translate", "model": "null", **arguments}
    app = Celery(broker=fleet.redis_url, set_as_current=False)
    sent: str = app.send_task("docmill.enqueue", queue=queue(ENQUEUE_LANE), kwargs=asked).id
    app.close()
    return str(arguments.get("order_id", sent))


def taking(fleet: Fleet, **more: Any) -> AbstractContextManager[Running]:
    """A worker that takes orders."""
    return fleet.worker(lanes="translate,enqueue", order_roots=fleet.folder, **more)


def waiting(fleet: Fleet) -> int:
    """Return the number of orders that no worker has taken out of the queue."""
    assert fleet.redis_url is not None
    with redis.Redis.from_url(fleet.redis_url) as client:
        depth = client.llen(queue(ENQUEUE_LANE))
        assert isinstance(depth, int)
        return depth


def held_by_nobody(fleet: Fleet) -> bool:
    """Return True if no worker has a message that it has not acknowledged."""
    assert fleet.redis_url is not None
    with redis.Redis.from_url(fleet.redis_url) as client:
        return bool(client.hlen("docmill:unacked") == 0)


def order(fleet: Fleet, sender_id: str) -> dict[str, Any]:
    """An order as its sender sees it."""
    found: dict[str, Any] = fleet.json("orders", sender_id)
    return found


def row(fleet: Fleet, sender_id: str) -> Any:
    """The order in the store, None before it is stored."""
    with suppress(NoSuchOrder):
        return orders.get(fleet.database, sender_id)
    return None


def done(fleet: Fleet, sender_id: str) -> Callable[[], bool]:
    return lambda: getattr(row(fleet, sender_id), "state", None) == "done"


def over(fleet: Fleet, sender_id: str) -> Callable[[], bool]:
    return lambda: getattr(row(fleet, sender_id), "finished_at", None) is not None


def count(fleet: Fleet, table: Any) -> int:
    with fleet.database.read() as transaction:
        return transaction.scalar(select(func.count()).select_from(table)) or 0


def check_carried_out_once(fleet: Fleet, sender_id: str, n: int) -> None:
    seen = order(fleet, sender_id)
    assert (seen["state"], seen["job"], seen["reason"]) == ("done", 1, None)
    assert (count(fleet, Job), count(fleet, Document)) == (1, n)
    assert count(fleet, EnqueueOrder) == 1


def test_an_order_that_is_sent_twice_is_carried_out_once_and_its_sender_sees_its_job(fleet: Fleet) -> None:
    fleet.corpus(numbered(5))
    for _ in range(2):
        sent = send(fleet, order_id="nightly 2026-11-27")
    with taking(fleet):
        until(done(fleet, sent), "the order is carried out")
        fleet.finish(1)
        until(lambda: waiting(fleet) == 0 and held_by_nobody(fleet), "both messages were looked at")
    check_carried_out_once(fleet, sent, 5)
    assert "Traceback" not in fleet.log("worker")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL])
def test_an_order_whose_worker_ends_while_it_reads_is_carried_on_by_the_next(
    fleet: Fleet, end: signal.Signals
) -> None:
    fleet.corpus(numbered(N))
    with taking(fleet, fault="enqueue:hang@1") as first:
        sent = send(fleet)
        until(fleet.strikes, "the source is being read")
        seen = order(fleet, sent)
        assert (seen["state"], seen["job"]) == ("reading", 1)
        if end is signal.SIGKILL:
            kill_group(first)
        else:
            first.send_signal(end)
            assert first.wait(60) == 0
            assert order(fleet, sent)["state"] == "waiting", "it was given back"
    assert waiting(fleet) == 0, "its message is not needed any more"
    with taking(fleet):
        until(done(fleet, sent), "the order is carried on")
        fleet.finish(1)
    check_carried_out_once(fleet, sent, N)


def test_an_order_whose_device_process_is_killed_while_it_reads_is_carried_on(fleet: Fleet) -> None:
    fleet.corpus(numbered(N))
    with taking(fleet, fault="enqueue:kill@2"):
        sent = send(fleet)
        until(fleet.strikes, "the process is killed")
        until(done(fleet, sent), "the order is carried on")
        fleet.finish(1)
    check_carried_out_once(fleet, sent, N)
    assert orders.get(fleet.database, sent).failures == 1


def freeze(fleet: Fleet, pids: list[int]) -> None:
    """Freeze processes at a moment when none of them holds the lock of a SQLite file, which nobody could take."""

    def frozen() -> bool:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        probe = Database(fleet.environment["DOCMILL_DATABASE_URL"], retries=1, busy_timeout_s=0.5, kinds=KINDS)
        try:
            probe.write(lambda transaction: transaction.execute(select(1)))
        except DatabaseBusy:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            return False
        finally:
            probe.close()
        return True

    until(frozen, "they are frozen without the lock")


def test_an_order_whose_reader_is_frozen_past_its_lease_is_carried_out_once(fleet: Fleet) -> None:
    fleet.corpus(numbered(N))
    with taking(fleet, fault="enqueue:hang@1") as first:
        sent = send(fleet)
        until(fleet.strikes, "the source is being read")
        fleet.move_to_another_machine()
        frozen = [first.pid, *device_pids(first)]
        freeze(fleet, frozen)
        try:
            with taking(fleet):
                until(done(fleet, sent), "another carries it on")
                fleet.finish(1)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        until(lambda: "lease_lost" in fleet.log("worker"), "the first one notices")
    check_carried_out_once(fleet, sent, N)


def test_an_order_whose_job_was_read_before_its_reader_died_is_not_read_again(fleet: Fleet) -> None:
    fleet.corpus(numbered(5))
    sent = send(fleet)
    with taking(fleet):
        until(done(fleet, sent), "the order is carried out")
        fleet.finish(1)
    unsaid = {"state": "reading", "finished_at": None, "owner": "dead", "lease_until": db_now() - 1}
    fleet.database.write(lambda transaction: transaction.execute(update(EnqueueOrder).values(**unsaid)))
    with taking(fleet):
        until(done(fleet, sent), "its end is noted")
    check_carried_out_once(fleet, sent, 5)


def test_a_job_that_is_cancelled_while_its_order_is_read_ends_the_order(fleet: Fleet) -> None:
    fleet.corpus(numbered(N))
    with taking(fleet, fault="enqueue:hang@1") as first:
        sent = send(fleet)
        until(fleet.strikes, "the source is being read")
        fleet("cancel", 1)
        kill_group(first)
    with taking(fleet):
        until(over(fleet, sent), "the order is over")
    seen = order(fleet, sent)
    assert (seen["state"], seen["job"], seen["reason"]) == ("refused", 1, "job 1 was cancelled")
    assert count(fleet, Job) == 1


def test_an_order_that_is_cancelled_while_it_is_read_ends_with_its_job(fleet: Fleet) -> None:
    fleet.corpus(numbered(N))
    with taking(fleet, fault="enqueue:hang@1"):
        sent = send(fleet)
        until(fleet.strikes, "the source is being read")
        assert fleet.json("orders", sent, "--cancel")["state"] == "cancelled"
        until(lambda: "lease_lost" in fleet.log("worker"), "its reader notices")
    with taking(fleet):
        next_one = send(fleet, order_id="next")
        until(done(fleet, next_one), "others are carried out")
    assert order(fleet, sent)["state"] == "cancelled"
    assert fleet.state(1) == "cancelled"
    assert order(fleet, next_one)["job"] == 2


def test_an_order_that_comes_while_the_file_is_locked_is_stored_once_it_is_not(
    tmp_path: Path, sqlite_url: str, redis_url: str
) -> None:
    database = Database(sqlite_url, kinds=KINDS)
    fleet = Fleet(tmp_path, database, redis_url)
    fleet.corpus(numbered(5))
    with taking(fleet):
        until(fleet.live, "the worker is there")
        with database.engine.connect() as other:
            other.exec_driver_sql("ROLLBACK")
            other.exec_driver_sql("BEGIN IMMEDIATE")
            sent = send(fleet)
            until(lambda: waiting(fleet) == 0, "the message is taken")
            assert not held_by_nobody(fleet), "it is not acknowledged"
            other.exec_driver_sql("ROLLBACK")
        until(lambda: held_by_nobody(fleet), "it is acknowledged once it is stored")
        until(done(fleet, sent), "the order is carried out")
        fleet.finish(1)
    check_carried_out_once(fleet, sent, 5)
    database.close()


@pytest.mark.parametrize("stopped", [False, True], ids=["the worker goes on", "the worker is told to stop"])
def test_an_order_that_comes_while_the_database_is_away_is_stored_once_it_is_there(
    tmp_path: Path, restartable: Database, own_postgres: PostgresCluster, redis_url: str, stopped: bool
) -> None:
    fleet = Fleet(tmp_path, restartable, redis_url)
    fleet.corpus(numbered(5))
    with taking(fleet) as worker:
        until(fleet.live, "the worker is there")
        own_postgres.kill()
        sent = send(fleet)
        until(lambda: "order_not_stored" in fleet.log("worker"), "it is taken, and cannot be stored")
        if stopped:
            worker.send_signal(signal.SIGTERM)
            until(lambda: waiting(fleet) == 1, "the message is put back")
            until(lambda: not device_pids(worker), "the device process ends")
        own_postgres.start()
        if stopped:
            assert worker.wait(60) == 0
        with ExitStack() as stack:
            if stopped:
                stack.enter_context(taking(fleet))
            until(done(fleet, sent), "the order is carried out")
            fleet.finish(1)
    check_carried_out_once(fleet, sent, 5)


def test_an_order_waits_for_a_hub_that_is_away_and_says_so(fleet: Fleet) -> None:
    fleet.corpus(numbered(5))
    port = free_port()
    fleet.environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(fleet.folder / "hub"),
    }
    with taking(fleet):
        sent = send(fleet, model="small/synopsis", task="summarize")
        until(lambda: getattr(row(fleet, sent), "reason", None), "it waits")
        seen = order(fleet, sent)
        assert (seen["state"], seen["ended_at"]) == ("waiting", None)
        assert "it waits, to be tried again: The hub does not answer for small/synopsis" in seen["reason"]
        with hub("small/synopsis", EXAMPLES / "models" / "synopsis-ddtp", port):
            due = update(EnqueueOrder).values(not_before=0.0)
            fleet.database.write(lambda transaction: transaction.execute(due))
            until(done(fleet, sent), "the order is carried out")
    check_carried_out_once(fleet, sent, 5)


def test_an_order_for_a_hub_model_that_lacks_weights_is_refused_from_their_headers(fleet: Fleet) -> None:
    fleet.corpus(numbered(5))
    folder = fleet.folder / "cut"
    shutil.copytree(EXAMPLES / "models" / "synopsis-ddtp", folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "decoder.layers.1." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with serving(Hub({"small/cut": folder})) as one:
        fleet.environment |= environment(one.endpoint, fleet.folder)
        with taking(fleet):
            sent = send(fleet, model="small/cut", task="summarize")
            until(lambda: getattr(row(fleet, sent), "reason", None), "it is refused")
            seen = order(fleet, sent)
        assert (seen["state"], seen["job"]) == ("refused", None)
        assert "The files of small/cut lack 26 weights that summarize computes with" in seen["reason"]
        assert one.sent["model.safetensors"] <= 100_000


def test_an_order_that_kills_whoever_reads_it_is_refused_and_the_work_beside_it_is_done(fleet: Fleet) -> None:
    fleet.corpus(numbered(5))
    fleet.patch(
        "import os, signal, sys\n"
        "if 'worker.process.device' in ' '.join(sys.orig_argv):\n"
        "    import worker.orders.desk as desk\n"
        "    desk.prepare = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with taking(fleet):
        sent = send(fleet)
        until(over(fleet, sent), "the order is over")
        seen = order(fleet, sent)
        assert (seen["state"], seen["job"]) == ("refused", None)
        assert "the process that read its source died, 3 times" in seen["reason"]
        assert fleet.finish(fleet.give(numbered(5))).done == 5


def test_a_worker_that_is_not_told_to_takes_no_order_and_the_sender_sees_that_nobody_does(fleet: Fleet) -> None:
    fleet.corpus(numbered(5))
    with fleet.worker():
        until(fleet.live, "the worker is there")
        sent = send(fleet, order_id="mine")
        assert fleet.finish(fleet.give(numbered(5))).done == 5
        assert waiting(fleet) == 1
        told = fleet("orders", sent, code=2).stderr
        assert "there is no order mine" in told
        assert "1 in the queue; no live worker takes orders. Nobody carries them out; start one that does" in told
        assert fleet.json("orders") == {"orders": [], "in_queue": 1, "workers": 0}
        [finding] = [one for one in fleet.json("doctor", code=1) if one["what"] == "orders"]
        assert not finding["ok"]
        assert "docmill worker --lanes" in finding["advice"]
        with taking(fleet):
            until(done(fleet, sent), "another worker takes it")
            assert fleet.json("orders")["workers"] == 1
