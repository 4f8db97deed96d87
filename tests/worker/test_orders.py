"""Orders of other programs: the bounds of what they may read, their refusals, and their jobs."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.lock import Lock

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Job
from docmill.storage.errors import LeaseLost
from docmill.tasks import kinds
from docmill.worker import orders
from docmill.worker.errors import OrderBusy, WorkerError
from docmill.worker.queue.broker import Broker
from docmill.worker.queue.messages import KEY_PREFIX
from docmill.worker.settings import Settings, load_settings
from docmill.worker.submit.enqueue import enqueue
from docmill.worker.submit.options import Request
from tests.storage.builders import count_rows

SECRET = "kanarienvogel"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that orders may read, with a link that leads out of it."""
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    for folder in (root, root / "below", tmp_path):
        (folder / "c.jsonl").write_text('{"id": "1", "text": "a text"}\n')
        sqlite3.connect(folder / "x.db").close()
    (root / "out.jsonl").symlink_to(tmp_path / "c.jsonl")
    (root / "out").symlink_to(tmp_path)
    return root


@pytest.fixture
def order(root: Path) -> dict[str, Any]:
    return {"source": str(root / "c.jsonl"), "task": "embed", "model": "null"}


def allowing(root: Path, **more: Any) -> Settings:
    return load_settings(home=root.parent / "home", order_roots=str(root), **more)


def make_request(source: object, **more: Any) -> Request:
    return Request(source=str(source), task="embed", **more)


@pytest.mark.parametrize(
    "source",
    [
        "{root}",
        "{root}/c.jsonl",
        "{root}/below/../c.jsonl",
        "{root}/*.jsonl",
        "{root}/**/*.jsonl",
        "file://{root}/c.jsonl",
        "sqlite:///{root}/x.db?SELECT 'a' AS text",
        "https://example.org/c.jsonl",
        "postgresql://me@host/db?SELECT 'a' AS text",
        "postgresql+psycopg://me@host/db?SELECT 'a' AS text",
    ],
)
def test_orders_may_read_sources_that_the_settings_name(root: Path, source: str) -> None:
    settings = allowing(root, order_schemes="HTTPS, postgresql,sqlite")
    orders.check(settings, make_request(source.format(root=root), model="null"))


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd",
        "{root}/../c.jsonl",
        "{root}/out.jsonl",
        "{root}/out/c.jsonl",
        "{root}/out/*.jsonl",
        "{root}/below/../../*.jsonl",
        "{root}2/c.jsonl",
        "file://{root}/../c.jsonl",
        "file:///etc/passwd",
        "sqlite:///{root}/../x.db?SELECT 'a' AS text",
        "datasets:///etc",
        "c.jsonl",
        "",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(root: Path, source: str) -> None:
    settings = allowing(root, order_schemes="sqlite,datasets")
    with pytest.raises(WorkerError, match=r"DOCMILL_ORDER_ROOTS of the workers that take orders \(.*root now\)"):
        orders.check(settings, make_request(source.format(root=root)))


@pytest.mark.parametrize(
    "source",
    [
        "http://example.org/c.jsonl",
        "s3://bucket/c.jsonl",
        "memory://bucket/c.jsonl",
        "local:///etc/passwd",
        "sqlite:///{root}/x.db?SELECT 'a' AS text",
        "datasets://owner/name?split=train",
    ],
)
def test_a_scheme_that_the_settings_lack_is_refused(root: Path, source: str) -> None:
    with pytest.raises(WorkerError, match=r"name it in DOCMILL_ORDER_SCHEMES .*\(https now\)"):
        orders.check(allowing(root, order_schemes="https"), make_request(source.format(root=root)))


@pytest.mark.parametrize(
    ("source", "is_allowed"),
    [
        ("postgresql://me@db.example/x?SELECT 'a' AS text", True),
        ("postgresql+psycopg://me@DB.example:5433/x?SELECT 'a' AS text", True),
        ("https://files.example:8443/c.jsonl?page=2", True),
        ("postgresql://me@evil.example/x?SELECT 'a' AS text", False),
        ("postgresql://db.example,evil.example/x?SELECT 'a' AS text", False),
        ("postgresql://db.example?sslmode=@evil.example/x?SELECT 'a' AS text", False),
        ("postgresql:///x?SELECT 'a' AS text", False),
        ("https://files.example/c.jsonl", False),
        ("https://files.example:8443.evil.example/c.jsonl", False),
        ("https://evil.example/https://files.example:8443/c.jsonl", False),
        ("https://evil.example\\@files.example:8443/c.jsonl", False),
        ("https://evil.example?@files.example:8443/c.jsonl", False),
        ("ftp://files.example/c.jsonl", True),
        ("ftp://files.example\\@evil.example/c.jsonl", False),
    ],
)
def test_orders_may_read_one_host_of_a_kind_of_url(root: Path, source: str, is_allowed: bool) -> None:
    settings = allowing(root, order_schemes="postgresql://db.example,https://files.example:8443,ftp://files.example")
    assert orders.allowed(source, settings.order_schemes) is is_allowed


@pytest.mark.parametrize("name", ["sslkey", "passfile", "service", "host", "hostaddr", "require_auth", "sslrootcert"])
def test_an_order_names_no_file_of_the_worker_and_no_other_host_to_a_database(root: Path, name: str) -> None:
    settings = allowing(root, order_schemes="postgresql")
    with pytest.raises(WorkerError, match=f"orders may not set {name} of a connection"):
        orders.check(settings, make_request(f"postgresql://me@host/db?{name}=x&sslmode=require?SELECT 'a' AS text"))
    orders.check(settings, make_request("postgresql://me@host/db?sslmode=verify-full?SELECT 'a' AS text"))


def test_without_settings_no_order_may_read_anything(root: Path) -> None:
    settings = load_settings(home=root / "home")
    for source in (root, "https://example.org/c.jsonl"):
        with pytest.raises(WorkerError, match="none now"):
            orders.check(settings, make_request(source))


def test_a_model_is_a_name_or_a_folder_that_the_settings_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models_dir = root.parent / "models"
    (models_dir / "mine").mkdir(parents=True)
    (root.parent / "elsewhere").mkdir()
    settings = allowing(root, models_dir=str(models_dir))
    for model in (
        "minilm",
        "marian-ddtp",
        "null@4000",
        "mine",
        "org/model",
        str(models_dir / "mine"),
        str(root / "below"),
    ):
        orders.check(settings, make_request(root, model=model))
    orders.check(settings, make_request(root, model="fr=mine,de=org/model"))
    monkeypatch.chdir(root.parent)
    for model in (
        "../../etc",
        "/etc",
        str(root.parent / "elsewhere"),
        "elsewhere",
        "mine/../..",
        f"fr=mine,de={root.parent}",
    ):
        with pytest.raises(WorkerError, match="may not use this folder as a model here"):
            orders.check(settings, make_request(root, model=model))
    for name in ("adapter", "tokenizer"):
        orders.check(settings, make_request(root, options=kinds.options("embed", **{name: "mine"})))
        with pytest.raises(WorkerError, match="may not use this folder as a model here"):
            orders.check(settings, make_request(root, options=kinds.options("embed", **{name: "/etc"})))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("order_roots", "documents", "each is an absolute path"),
        ("order_schemes", "https://", "is not a kind of URL; write the part before ://"),
        ("order_schemes", "https://me@example.org", "is not a kind of URL"),
        ("order_schemes", "file", "files are allowed by DOCMILL_ORDER_ROOTS"),
        ("order_schemes", "file://host", "files are allowed by DOCMILL_ORDER_ROOTS"),
    ],
)
def test_settings_that_would_allow_nothing_are_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(WorkerError, match=says):
        load_settings(**{name: value})


def test_the_lane_of_orders_is_served_only_where_it_is_named() -> None:
    assert not load_settings().takes_orders
    assert load_settings(lanes="embed,enqueue").takes_orders


@pytest.fixture
def give(root: Path, database: Database) -> Callable[..., int]:
    """A function that carries out an order as a worker does, without a queue that counts attempts."""

    class NoQueue(Broker):
        @contextmanager
        def attempt(self, *_: object) -> Iterator[tuple[int, Callable[[], bool]]]:
            yield 0, lambda: True

    def give(*, message_id: str = "one", stop: threading.Event | None = None, **arguments: Any) -> int:
        settings = allowing(root, order_schemes="https,postgresql")
        broker = NoQueue("redis://127.0.0.1:1")
        return orders.carry_out(settings, database, broker, message_id, arguments, stop or threading.Event())

    return give


def test_the_same_id_is_the_same_job_and_takes_no_other_arguments(
    order: dict[str, Any], database: Database, give: Callable[..., int]
) -> None:
    assert [give(**order), give(**order), give(message_id="two", order_id="one", **order)] == [1, 1, 1]
    with pytest.raises(ValueError, match="the idempotency key one is that of job 1, which has other arguments"):
        give(**order, limit=1)
    assert give(message_id="two", **order) == 2
    assert count_rows(database, Job) == 2


def test_an_order_whose_worker_stops_is_given_back_and_carried_on(
    order: dict[str, Any], database: Database, give: Callable[..., int]
) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(LeaseLost):
        give(**order, stop=stop)
    assert count_rows(database, Job) == 0, "nothing is begun"
    assert give(**order) == 1
    assert count_rows(database, Job) == 1


def lose_connection(*_: object) -> None:
    raise redis.ConnectionError


@pytest.mark.parametrize("ends", ["killed", "stopped", "cut off"])
def test_only_an_order_whose_process_vanished_counts_as_a_death(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    broker, stop = Broker(redis_url), threading.Event()
    attempt = broker.attempt(ends, 60.0, stop)
    _, renew = attempt.__enter__()
    if ends == "stopped":
        stop.set()
        renew()
    if ends == "cut off":
        with monkeypatch.context() as patch:
            patch.setattr(broker._redis, "delete", lose_connection)
            attempt.__exit__(None, None, None)
    broker._redis.delete(f"{KEY_PREFIX}lease:{ends}")  # as it lapses
    with broker.attempt(ends, 60.0, threading.Event()) as (deaths, _):
        assert deaths == (ends == "killed")


def test_an_order_whose_lease_lapsed_while_redis_was_away_is_taken_back_unless_another_process_has_it(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, other, stop = Broker(redis_url), Broker(redis_url), threading.Event()
    with broker.attempt("outage", 60.0, stop) as (_, renew):
        broker._redis.delete(f"{KEY_PREFIX}lease:outage")  # as it lapses
        assert renew()
        with pytest.raises(OrderBusy), other.attempt("outage", 60.0, stop):
            pass
        broker._redis.delete(f"{KEY_PREFIX}lease:outage")
        with monkeypatch.context() as patch:  # it is away again
            patch.setattr(Lock, "acquire", lose_connection)
            assert renew()
        with other.attempt("outage", 60.0, stop) as (_, renew_other):
            assert not renew()
            assert renew_other()


def test_an_order_that_comes_again_while_it_is_read_waits_for_its_job(
    root: Path, order: dict[str, Any], database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = partial(orders.carry_out, allowing(root), database, broker, "one", order, threading.Event())
    waits: list[object] = []

    def read_while_repeated(*args: Any) -> Any:
        for _ in range(orders.MOST_DEATHS + 1):
            with pytest.raises(OrderBusy) as wait:
                give()
            waits.append(wait)
        return enqueue(*args)

    monkeypatch.setattr(orders, "enqueue", read_while_repeated)
    assert [give(), give()] == [1, 1]
    assert len(waits) > orders.MOST_DEATHS, "no wait counts as a death"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"corpus": "a\0b"}, "corpus has a NUL or half a character"),
        ({"prompt": "\ud800"}, "prompt has a NUL or half a character"),
        ({"no\0name": 1}, "takes no argument no\ufffdname"),
        ({"source": "{root}/loop"}, "RuntimeError in the worker"),
        ({"model": "x" * 5_000}, "File name too long"),
        ({"source": "x.jsonl", "model": "../../../etc"}, "DOCMILL_ORDER_ROOTS"),
        ({"priority": 2**62}, "priority must be between"),
        ({"order_id": "a\nb"}, "order_id is a text of at most 255 printable characters"),
    ],
    ids=str,
)
def test_a_wrong_order_is_refused_with_the_reason(
    root: Path, order: dict[str, Any], database: Database, give: Callable[..., int], wrong: dict[str, Any], says: str
) -> None:
    (root / "loop").symlink_to(root / "loop")
    order |= wrong
    order["source"] = order["source"].replace("{root}", str(root))
    with pytest.raises(ValueError, match=re.escape(says)):
        give(**order)
    assert count_rows(database, Job) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": f"https://me:{SECRET}@example.org/c.jsonl", "task": "embed"},
        {"source": f"https://example.org/c.jsonl?token={SECRET}", "task": "embed"},
        {"source": f"postgresql://me@host/db?password={SECRET}?SELECT 'a' AS text", "task": "embed"},
        {"source": f"https://{SECRET}@example.org/c.jsonl", "task": "sing"},
        {"source": "c.jsonl", "task": "embed", "password": SECRET},
    ],
)
def test_no_secret_of_an_order_is_printed_or_stored(
    give: Callable[..., int], database: Database, arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        give(**arguments)
    assert SECRET not in f"{refused.value}{caplog.text}"
    assert count_rows(database, Job) == 0
