"""Celery sees envelopes of our own making: a stranger's message either fits into one or is dropped."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import zlib
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from docmill.worker.errors import BadMessage
from docmill.worker.queue.messages import (
    ENQUEUE_TASK,
    MAX_BYTES,
    RUN_TASK,
    SHARD_TASK,
    hint_arguments,
    queue,
    rewrite,
)
from docmill.worker.settings import ENQUEUE_LANE
from tests.worker.hostile import hostile, hostile_orders, message, order

HERE = Path("trap")
TASKS = st.sampled_from([SHARD_TASK, RUN_TASK])
ORDERS = queue(ENQUEUE_LANE)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def celerys(task: str, arguments: dict[str, Any], **more: Any) -> bytes:
    """Return the message that a Celery app sends."""
    made = Celery(set_as_current=False).amqp.as_task_v2("an id", task, (), arguments, **more)
    return message(arguments, body=base64.b64encode(json.dumps(made.body).encode()).decode(), headers=made.headers)


def opened(raw: bytes) -> tuple[str, dict[str, Any]]:
    """The task and the arguments of an envelope of ours."""
    envelope = json.loads(raw)
    arguments, named, after = json.loads(base64.b64decode(envelope["body"]))
    assert arguments == []
    assert not any(after.values())
    return envelope["headers"]["task"], named


def test_a_message_of_celerys_keeps_its_task_its_arguments_its_id_and_its_times() -> None:
    arguments = {"source": "/données/x.jsonl", "task": "embed", "limit": 3, "strict": True, "model": None}
    raw = rewrite(celerys(ENQUEUE_TASK, arguments, expires=60, countdown=5), ORDERS)
    assert opened(raw) == (ENQUEUE_TASK, arguments)
    headers = json.loads(raw)["headers"]
    assert headers["id"] == "an id"
    assert headers["eta"] < headers["expires"]


def test_what_is_rewritten_twice_is_the_same_but_for_its_tag() -> None:
    once = json.loads(rewrite(celerys(SHARD_TASK, hint_arguments(SHARD_TASK, 7)), "docmill:v1:embed"))
    twice = json.loads(rewrite(json.dumps(once).encode(), "docmill:v1:embed"))
    assert once["properties"].pop("delivery_tag") != twice["properties"].pop("delivery_tag")
    assert once == twice


def test_a_message_goes_back_to_the_queue_that_it_came_from_whatever_it_says() -> None:
    sent = message(properties={"body_encoding": "base64", "delivery_info": {"exchange": "x", "routing_key": "y"}})
    info = json.loads(rewrite(sent, "docmill:v1:embed"))["properties"]["delivery_info"]
    assert info == {"exchange": "", "routing_key": "docmill:v1:embed"}


@pytest.mark.parametrize(("what", "raw"), hostile(HERE).items(), ids=hostile(HERE))
def test_a_hostile_message_is_refused_and_nothing_of_it_is_done(what: str, raw: bytes) -> None:
    with pytest.raises(BadMessage):
        rewrite(raw, "docmill:v1:translate")
    assert not HERE.exists()


@pytest.mark.parametrize(("what", "raw"), hostile_orders(HERE).items(), ids=hostile_orders(HERE))
def test_a_hostile_order_is_refused_and_nothing_of_it_is_done(what: str, raw: bytes) -> None:
    with pytest.raises(BadMessage):
        rewrite(raw, ORDERS)
    assert not HERE.exists()


def test_an_order_keeps_its_arguments_and_the_tasks_that_follow_but_goes_back_to_its_own_queue() -> None:
    body = [["a.csv"], {"task": "embed"}, {"chain": [{"task": "sender.follow"}], "errbacks": None}]
    headers = {"group": "g", "retries": 2, "timelimit": [1, 1], "argsrepr": "x", "parent_id": 7}
    for raw in (
        order(body, headers),
        order(zlib.compress(json.dumps(body).encode()), {**headers, "compression": "application/x-gzip"}),
        order(bz2.compress(json.dumps(body).encode()), {**headers, "compression": "application/x-bz2"}),
        order(lzma.compress(json.dumps(body).encode()), {**headers, "compression": "application/x-lzma"}),
    ):
        envelope = json.loads(rewrite(raw, ORDERS))
        by_place, named, following = json.loads(base64.b64decode(envelope["body"]))
        assert (by_place, named, following["chain"]) == (["a.csv"], {"task": "embed"}, [{"task": "sender.follow"}])
        kept = envelope["headers"]
        assert (kept["group"], kept["retries"]) == ("g", 2)
        assert not {"compression", "timelimit", "argsrepr", "parent_id"} & kept.keys()
        assert envelope["properties"]["delivery_info"] == {"exchange": "", "routing_key": ORDERS}


@pytest.mark.parametrize("raw", [order(), celerys(ENQUEUE_TASK, {"source": "a", "task": "embed"})])
def test_an_order_among_shards_is_refused(raw: bytes) -> None:
    with pytest.raises(BadMessage, match=r"is for docmill\.shard or docmill\.pipeline"):
        rewrite(raw, "docmill:v1:embed")


@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode()))
def test_anything_at_all_is_read_or_refused(raw: bytes) -> None:
    for name in ("docmill:v1:embed", ORDERS):
        with pytest.raises(BadMessage):
            rewrite(raw, name)


@given(TASKS, st.dictionaries(st.text(max_size=20), VALUES, max_size=4), st.dictionaries(st.text(), VALUES))
def test_what_is_not_refused_holds_plain_values_and_is_small(
    task: str, arguments: dict[str, Any], headers: dict[str, Any]
) -> None:
    raw = message(arguments, headers={**headers, "task": task, "id": "1"})
    try:
        rewritten = rewrite(raw, "docmill:v1:embed")
    except BadMessage:
        return
    assert len(rewritten) < MAX_BYTES + 2_000
    assert not any(isinstance(value, dict | list) for value in opened(rewritten)[1].values())
