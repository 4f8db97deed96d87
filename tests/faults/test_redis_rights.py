"""The Redis users of docs/security.md have the rights that docmill needs, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult

from docmill.storage.core.database import Database
from docmill.worker.errors import BrokerUnreachable
from docmill.worker.queue.broker import ORDER_PROBES, PROBES, Broker
from docmill.worker.queue.messages import queue
from docmill.worker.settings import ENQUEUE_LANE
from tests.faults import security
from tests.faults.fleet import Fleet, numbered
from tests.faults.servers import RedisServer
from tests.worker.harness import until

WORKER, ADMIN, PRODUCER, TAKER = "docmill-worker", "docmill-admin", "docmill-producer", "docmill-orders"


@pytest.fixture
def protected(own_redis: RedisServer) -> RedisServer:
    security.protect(own_redis)
    return own_redis


@pytest.fixture
def admin(tmp_path: Path, sqlite: Database, protected: RedisServer) -> Fleet:
    return Fleet(tmp_path, sqlite, security.redis_url(protected, ADMIN))


@pytest.fixture
def worker(tmp_path: Path, sqlite: Database, protected: RedisServer) -> Fleet:
    return Fleet(tmp_path, sqlite, security.redis_url(protected, WORKER))


@pytest.fixture
def taker(tmp_path: Path, sqlite: Database, protected: RedisServer) -> Fleet:
    """A worker that takes orders."""
    lanes = {"lanes": "summarize,translate,enqueue", "order_roots": tmp_path}
    return Fleet(tmp_path, sqlite, security.redis_url(protected, TAKER), **lanes)


def keeper(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(security.redis_url(server, "keeper", "keeper"))


def send(server: RedisServer, **arguments: str) -> AsyncResult:
    """Send `docmill.enqueue` as another Celery app does."""
    url = security.redis_url(server, PRODUCER)
    app = Celery(broker=url, backend=url, set_as_current=False)
    return app.AsyncResult(app.send_task("docmill.enqueue", queue=queue(ENQUEUE_LANE), kwargs=arguments).id)


def test_the_pages_rights_let_two_users_enqueue_jobs_and_a_third_compute_them(
    protected: RedisServer, admin: Fleet, taker: Fleet
) -> None:
    source = admin.corpus(numbered(3))
    enqueued = json.loads(admin("enqueue", "translate", source, "--model", "null", "--json").stdout)
    assert enqueued["deferred"] is None
    order = send(protected, source=str(source), task="summarize", model="null")
    with taker.worker():
        admin.finish(enqueued["id"])
        assert order.get(60) == 2
        with pytest.raises(ValueError, match="task must be summarize"):
            send(protected, source=str(source), task="sing").get(60)
        until(lambda: taker.outcomes()["done"] == 6, "what was sent is done")
    admin_broker = admin.broker()
    assert admin_broker.depth(ENQUEUE_LANE) == 0, "an admin may look at the queue of orders"
    admin_broker.close()
    refused = [entry["object"] for entry in keeper(protected).acl_log()]
    assert set(refused) <= {"client|setinfo"}


@pytest.mark.parametrize(("user", "probes"), [(WORKER, PROBES), (TAKER, PROBES + ORDER_PROBES)])
def test_the_page_permits_a_worker_what_it_probes_for_and_nothing_else(
    user: str, probes: tuple[tuple[Any, ...], ...]
) -> None:
    permitted = {word[1:] for word in security.acl(user) if word.startswith("+")}
    assert permitted == {name.lower().replace(" ", "|") for name, *_ in probes}


def test_a_worker_that_lacks_a_command_names_it_before_it_starts(protected: RedisServer, worker: Fleet) -> None:
    with pytest.raises(BrokerUnreachable, match=r"lacks \+pexpire \+setex \+publish; docs/security.md"):
        worker.broker().require_rights(takes_orders=True)
    with keeper(protected) as client:
        for word in security.acl(WORKER):
            if word.startswith("+"):
                client.execute_command("ACL", "SETUSER", WORKER, f"-{word[1:]}")
                with pytest.raises(BrokerUnreachable, match=rf"lacks ([^ ]* )*?\+{word[1:]}".replace("|", r"\|")):
                    worker.broker().require_rights(takes_orders=False)
                client.execute_command("ACL", "SETUSER", WORKER, word)
        worker.broker().require_rights(takes_orders=False)
        client.execute_command("ACL", "SETUSER", WORKER, "-brpop", "-zadd")
        assert "lacks +brpop +zadd; docs/security.md" in worker("worker", "--device", "cpu", code=3).stderr


def test_each_command_of_an_admins_user_is_needed_and_a_job_whose_hints_are_refused_is_stored(
    protected: RedisServer, admin: Fleet
) -> None:
    with keeper(protected) as client:
        for word in security.acl(ADMIN):
            if word.startswith("+"):
                client.execute_command("ACL", "SETUSER", ADMIN, f"-{word[1:]}")
                with pytest.raises(BrokerUnreachable, match="refuses what docmill does"):
                    hint(admin.broker())
                client.execute_command("ACL", "SETUSER", ADMIN, word)
        hint(admin.broker())
        client.execute_command("ACL", "SETUSER", ADMIN, "-lpush")
    stderr = admin("enqueue", "translate", admin.corpus(numbered(3)), "--model", "null").stderr
    assert "Dispatch deferred" in stderr
    assert "has no permissions to run the 'lpush' command" in stderr


def hint(broker: Broker) -> None:
    """Send hints to Redis."""
    try:
        broker.ping()
        broker.depth("embed")
        broker.publish("embed", [1])
        broker.publish("embed", [2], ahead=True)
    finally:
        broker.close()


@pytest.mark.parametrize("user", [WORKER, "nobody"])
def test_a_wrong_password_is_reported(protected: RedisServer, user: str) -> None:
    broker = Broker(security.redis_url(protected, user, "guessed-wrong"))
    with pytest.raises(BrokerUnreachable, match="does not know the user and password of DOCMILL_REDIS_URL") as raised:
        broker.ping()
    assert "guessed-wrong" not in str(raised.value)
    broker.close()
