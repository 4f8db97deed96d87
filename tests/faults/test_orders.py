"""Orders of other Celery apps: each is carried out once, and its sender gets the job's number or the refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import redis
from celery import Celery, chain
from celery.contrib.testing.worker import start_worker
from celery.result import AsyncResult

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Document, Job
from docmill.storage.ingest.chunks import CHUNK_RECORDS
from docmill.worker.queue.messages import queue
from docmill.worker.settings import ENQUEUE_LANE
from tests.faults.fleet import Fleet, numbered
from tests.faults.servers import PostgresCluster, free_port
from tests.storage.builders import count_rows
from tests.tasks.hub_server import Hub, serving
from tests.worker.harness import EXAMPLES, Running, device_pids, kill_group, until

N = CHUNK_RECORDS + 1000  # three chunks, the first of which is small
QUEUE = "docmill:v1:enqueue"
WITHIN_S = 120


@pytest.fixture
def sender(redis_url: str) -> Iterator[Celery]:
    """Another program's Celery app on the same Redis, without docmill's settings."""
    app = Celery("sender", broker=redis_url, backend=redis_url, set_as_current=False)
    yield app
    app.close()


def arguments(fleet: Fleet, **more: Any) -> dict[str, Any]:
    return {"source": str(fleet.folder / "corpus.jsonl"), "task": "translate", "model": "null", **more}


def send(sender: Celery, fleet: Fleet, **more: Any) -> AsyncResult:
    order = sender.send_task("docmill.enqueue", queue=QUEUE, kwargs=arguments(fleet, **more))
    return sender.AsyncResult(order.id)  # which waits for nothing until it is asked


def taking(fleet: Fleet, **more: Any) -> AbstractContextManager[Running]:
    """Start a worker that takes orders, for the length of a block."""
    return fleet.worker(lanes="translate,summarize,enqueue", order_roots=fleet.folder, **more)


def redeliver(sender: Celery) -> None:
    """Let the two minutes pass after which Celery sends an order of a dead worker again."""
    with redis.Redis.from_url(sender.conf.broker_url) as client:
        for tag in client.zrange("docmill:unacked_index", 0, -1):
            client.zadd("docmill:unacked_index", {tag: 1.0})


def n_unacknowledged(sender: Celery) -> int:
    with redis.Redis.from_url(sender.conf.broker_url) as client:
        return int(client.hlen("docmill:unacked")) + int(client.llen(QUEUE))


def test_an_order_returns_the_number_of_its_job_however_celery_sends_it(fleet: Fleet, sender: Celery) -> None:
    assert queue(ENQUEUE_LANE) == QUEUE
    fleet.corpus(numbered(5))
    keywords = arguments(fleet, order_id="nightly 2026-11-27")
    source = keywords.pop("source")
    with taking(fleet):
        orders = [
            send(sender, fleet, order_id="nightly 2026-11-27"),
            sender.send_task("docmill.enqueue", queue=QUEUE, args=[source], kwargs=keywords),
            sender.send_task("docmill.enqueue", queue=QUEUE, args=[source], kwargs=keywords, compression="zlib"),
        ]
        assert [result.get(WITHIN_S) for result in orders] == [1, 1, 1], "the same id is the same job"
        fleet.finish(1)
        until(lambda: n_unacknowledged(sender) == 0, "all are acknowledged")
        assert send(sender, fleet).get(WITHIN_S) != 1
    assert (count_rows(fleet.database, Job), count_rows(fleet.database, Document)) == (2, 5)
    assert "Traceback" not in fleet.log("worker")


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's, in the sender's own worker
def test_tasks_that_follow_an_order_run_in_their_own_app(fleet: Fleet, sender: Celery) -> None:
    fleet.corpus(numbered(5))
    failed_ids = []

    @sender.task(name="sender.follow", shared=False)  # type: ignore[untyped-decorator]
    def follow(job: int, word: str) -> str:
        return f"{word} {job}"

    @sender.task(name="sender.complain", shared=False)  # type: ignore[untyped-decorator]
    def complain(order_id: str) -> None:
        failed_ids.append(order_id)

    order = sender.signature("docmill.enqueue", queue=QUEUE, kwargs=arguments(fleet), app=sender)
    refused = order.clone(kwargs={"corpus": "c", "task": "sing"}).set(link_error=complain.s())
    with taking(fleet), start_worker(sender, pool="solo", perform_ping_check=False):
        assert chain(order, follow.s("job")).apply_async().get(WITHIN_S) == "job 1"
        result = refused.apply_async()
        with pytest.raises(ValueError, match="task must be summarize"):
            result.get(WITHIN_S)
        until(lambda: failed_ids == [result.id], "the sender's task for errors is called")


def test_an_order_whose_worker_is_killed_while_it_reads_is_carried_on_by_the_next(
    fleet: Fleet, sender: Celery
) -> None:
    fleet.corpus(numbered(N))
    with taking(fleet, fault="enqueue:hang@1") as first:
        order = send(sender, fleet)
        until(fleet.strikes, "the source is being read")
        kill_group(first)
    redeliver(sender)
    with taking(fleet):
        assert order.get(WITHIN_S) == 1
        fleet.finish(1)
    assert (count_rows(fleet.database, Job), count_rows(fleet.database, Document)) == (1, N)


def test_an_order_that_is_being_read_is_not_sent_again(fleet: Fleet, sender: Celery) -> None:
    fleet.corpus(numbered(N))
    with taking(fleet, fault="enqueue:hang@1"), redis.Redis.from_url(sender.conf.broker_url) as client:
        send(sender, fleet)
        until(fleet.strikes, "the source is being read")
        [(tag, since)] = client.zrange("docmill:unacked_index", 0, -1, withscores=True)
        until(lambda: client.zscore("docmill:unacked_index", tag) > since, "its worker says that it lives")


def test_an_order_that_kills_whoever_reads_it_is_refused_and_the_work_beside_it_is_done(
    fleet: Fleet, sender: Celery
) -> None:
    fleet.corpus(numbered(5))
    fleet.patch(
        "import os, signal, sys\n"
        "if 'docmill.worker.process.device' in ' '.join(sys.orig_argv):\n"
        "    import docmill.worker.orders\n"
        "    docmill.worker.orders.prepare = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with taking(fleet) as worker:
        order = send(sender, fleet)
        seen_pids: set[int] = set()

        def is_over() -> bool:
            pids = device_pids(worker)
            if pids and not seen_pids.issuperset(pids):
                seen_pids.update(pids)
                redeliver(sender)
            return bool(order.ready())

        until(is_over, "the order is over", WITHIN_S)
        with pytest.raises(ValueError, match="3 processes that read its source died"):
            order.get()
        assert fleet.finish(fleet.give(numbered(5))).done == 5


def test_an_order_waits_for_a_database_that_is_away(
    tmp_path: Any, restartable: Database, own_postgres: PostgresCluster, redis_url: str, sender: Celery
) -> None:
    fleet = Fleet(tmp_path, restartable, redis_url)
    fleet.corpus(numbered(5))
    with taking(fleet):
        until(fleet.live, "the worker is there")
        own_postgres.kill()
        order = send(sender, fleet)
        until(lambda: order.state == "RETRY", "it waits", WITHIN_S)
        own_postgres.start()
        assert order.get(WITHIN_S) == 1
    assert (count_rows(fleet.database, Job), count_rows(fleet.database, Document)) == (1, 5)


def test_an_order_waits_for_a_hub_that_is_away_and_its_sender_sees_why(fleet: Fleet, sender: Celery) -> None:
    fleet.corpus(numbered(5))
    port = free_port()
    fleet.environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(fleet.folder / "hub"),
    }
    with taking(fleet):
        order = send(sender, fleet, model="small/synopsis", task="summarize")
        until(lambda: order.state == "RETRY", "it waits", WITHIN_S)
        assert "The hub does not answer for small/synopsis" in str(order.info)
        with serving(Hub({"small/synopsis": EXAMPLES / "models" / "synopsis-ddtp"}), port):
            assert order.get(WITHIN_S) == 1
