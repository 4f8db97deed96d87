"""Orders as their senders give and see them: what may be read, what is stored, what is shown."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from storage.core.database import Database
from storage.core.schema import Base
from storage.pipelines import orders
from tasks import kinds
from tests.faults.fleet import Fleet, numbered
from tests.kinds import KINDS
from tests.worker.harness import Docmill
from worker.errors import SettingsError
from worker.orders import bounds, message
from worker.orders.bounds import OrderRefused
from worker.orders.desk import Desk
from worker.queue.broker import Broker
from worker.settings import Settings, load_settings
from worker.submit.options import Request

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


def allowing(root: Path, **more: Any) -> Settings:
    return load_settings(home=root.parent / "home", order_roots=str(root), **more)


def asked(source: object, **more: Any) -> Request:
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
def test_what_the_settings_name_may_be_read(root: Path, source: str) -> None:
    settings = allowing(root, order_schemes="HTTPS, postgresql,sqlite")
    bounds.check(settings, asked(source.format(root=root), model="null"))


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
    with pytest.raises(OrderRefused, match=r"DOCMILL_ORDER_ROOTS of the workers that take orders \(.*root now\)"):
        bounds.check(settings, asked(source.format(root=root)))


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
def test_a_kind_of_url_that_is_not_named_is_refused(root: Path, source: str) -> None:
    with pytest.raises(OrderRefused, match=r"name it in DOCMILL_ORDER_SCHEMES .*\(https now\)"):
        bounds.check(allowing(root, order_schemes="https"), asked(source.format(root=root)))


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
    ],
)
def test_orders_may_read_one_host_of_a_kind_of_url(root: Path, source: str, is_allowed: bool) -> None:
    settings = allowing(root, order_schemes="postgresql://db.example,https://files.example:8443")
    assert bounds.allowed(source, settings.order_schemes) is is_allowed


@pytest.mark.parametrize("name", ["sslkey", "passfile", "service", "host", "hostaddr", "require_auth", "sslrootcert"])
def test_an_order_names_no_file_of_the_worker_and_no_other_host_to_a_database(root: Path, name: str) -> None:
    settings = allowing(root, order_schemes="postgresql")
    with pytest.raises(OrderRefused, match=f"orders may not set {name} of a connection"):
        bounds.check(settings, asked(f"postgresql://me@host/db?{name}=x&sslmode=require?SELECT 'a' AS text"))
    bounds.check(settings, asked("postgresql://me@host/db?sslmode=verify-full?SELECT 'a' AS text"))


def test_without_settings_no_order_may_read_anything(root: Path) -> None:
    settings = load_settings(home=root / "home")
    for source in (root, "https://example.org/c.jsonl"):
        with pytest.raises(OrderRefused, match="none now"):
            bounds.check(settings, asked(source))


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
        bounds.check(settings, asked(root, model=model))
    bounds.check(settings, asked(root, model="fr=mine,de=org/model"))
    monkeypatch.chdir(root.parent)
    (root.parent / "elsewhere.gguf").touch()
    for model in (
        "../../etc",
        "/etc",
        str(root.parent / "elsewhere"),
        "elsewhere",
        "elsewhere.gguf",
        "mine/../..",
        f"fr=mine,de={root.parent}",
    ):
        with pytest.raises(OrderRefused, match="may not use this folder as a model here"):
            bounds.check(settings, asked(root, model=model))
    for named in ("adapter", "tokenizer"):
        bounds.check(settings, asked(root, options=kinds.options("embed", **{named: "mine"})))
        with pytest.raises(OrderRefused, match="may not use this folder as a model here"):
            bounds.check(settings, asked(root, options=kinds.options("embed", **{named: "/etc"})))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("order_roots", "documents", "each is an absolute path"),
        ("order_schemes", "https://", "is no kind of URL; write the part before ://"),
        ("order_schemes", "https://me@example.org", "is no kind of URL"),
        ("order_schemes", "file", "files are allowed by DOCMILL_ORDER_ROOTS"),
        ("order_schemes", "file://host", "files are allowed by DOCMILL_ORDER_ROOTS"),
    ],
)
def test_settings_that_would_allow_nothing_are_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(**{name: value})


def test_the_lane_of_orders_is_served_only_where_it_is_named() -> None:
    assert not load_settings().takes_orders
    assert load_settings(lanes="embed,enqueue").takes_orders


def test_a_senders_id_is_the_one_in_the_message_else_the_messages_own() -> None:
    assert message.sender_id("celery's", {"order_id": "mine"}) == "mine"
    assert message.sender_id("celery's", {}) == "celery's"
    for unfit in ("", "a\nb", "x" * 256, 7, None):
        assert message.sender_id("celery's", {"order_id": unfit}) == "celery's"


@pytest.fixture
def store(root: Path, database: Database) -> Callable[..., Any]:
    """Stores an order as a worker does, and returns its row."""

    def store(**arguments: Any) -> Any:
        settings = allowing(root, order_schemes="https,postgresql")
        desk = Desk(settings, database, Broker("redis://127.0.0.1:1"), "me", threading.Event())
        assert desk.store("one", arguments)
        return orders.get(database, "one")

    return store


def test_an_order_is_stored_as_it_was_given_and_waits(root: Path, store: Callable[..., Any]) -> None:
    given = {"source": str(root / "c.jsonl"), "task": "translate", "from": "fr", "v": 1, "strict": True}
    row = store(**given)
    assert (row.state, row.arguments, row.reason, row.job_id) == ("waiting", given, None, None)


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
def test_no_secret_of_an_order_is_stored_or_said(
    store: Callable[..., Any], database: Database, arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert store(**arguments).state == "refused"
    with database.read() as transaction:
        tables = repr([transaction.execute(select(table)).all() for table in Base.metadata.sorted_tables])
    assert SECRET not in tables
    assert SECRET not in caplog.text


def test_a_secret_in_a_source_is_refused_with_where_to_put_it(store: Callable[..., Any]) -> None:
    row = store(source=f"https://me:{SECRET}@example.org/c.jsonl", task="embed")
    assert "has a password, which would be stored; leave it out, and put it into the file ~/.netrc" in row.reason
    assert row.arguments == {"source": "https://me:***@example.org/c.jsonl", "task": "embed"}


def test_orders_are_listed_and_shown_with_their_jobs_and_refusals(tmp_path: Path, database: Database) -> None:
    fleet = Fleet(tmp_path, database, None)
    path = fleet.corpus(numbered(3))
    settings = load_settings(home=tmp_path / "home", order_roots=str(tmp_path))
    desk = Desk(settings, database, Broker("redis://127.0.0.1:1"), "me", threading.Event())
    desk.store("good", {"source": str(path), "task": "translate", "model": "null"})
    desk.store("bad [/b]\u009b", {"source": "/etc/passwd", "task": "embed"})
    desk.store("two", {"source": "/etc/passwd", "task": "embed", "order_id": "bad [/b]"})
    order = orders.take(database, "me", 60.0)
    assert order is not None
    orders.end(database, order, "done", job_id=7)
    shown = fleet.json("orders", "good")
    assert (shown["id"], shown["state"], shown["job"], shown["task"]) == ("good", "done", 7, "translate")
    listed = fleet.json("orders")
    assert (listed["in_queue"], listed["workers"]) == (None, 0)
    assert [order["state"] for order in listed["orders"]] == ["refused", "refused", "done"]
    said = fleet("orders")
    assert "\u009b" not in said.stdout
    assert "Order bad [/b]: /etc/passwd: orders may not read it here" in said.stdout
    assert "0 stored and not over, an unknown number in the queue; no live worker takes orders" in said.stderr
    assert "order" in fleet("orders", "good").stdout
    assert len(fleet.json("orders", "--limit", 1)["orders"]) == 1
    assert "there is no order nobody's" in fleet("orders", "nobody's", code=2).stderr
    assert "--cancel takes the id" in fleet("orders", "--cancel", code=2).stderr
    assert "was over before: done" in fleet("orders", "good", "--cancel").stderr


def test_an_order_without_a_job_is_cancelled(embedded: Docmill) -> None:
    embedded("jobs")  # makes the store
    database = Database(f"sqlite:///{embedded.folder / 'home' / 'docmill.db'}", kinds=KINDS)
    orders.place(database, "waits", {"source": "a.jsonl", "task": "embed"})
    database.close()
    assert json.loads(embedded("orders", "waits", "--cancel", "--json").stdout)["state"] == "cancelled"
