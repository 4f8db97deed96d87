"""docmill rewrites each message for Celery, and drops messages that do not fit."""

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


def celery_message(task: str, arguments: dict[str, Any], **more: Any) -> bytes:
    """Return the message that a Celery app sends."""
    sent = Celery(set_as_current=False).amqp.as_task_v2("an id", task, (), arguments, **more)
    return message(arguments, body=base64.b64encode(json.dumps(sent.body).encode()).decode(), headers=sent.headers)


def unpack(raw: bytes) -> tuple[str, dict[str, Any]]:
    """Return the task and the arguments of a rewritten message."""
    envelope = json.loads(raw)
    arguments, named, following = json.loads(base64.b64decode(envelope["body"]))
    assert arguments == []
    assert not any(following.values())
    return envelope["headers"]["task"], named


def test_a_message_of_celerys_keeps_its_task_its_arguments_its_id_and_its_times() -> None:
    arguments = {"source": "/données/x.jsonl", "task": "embed", "limit": 3, "strict": True, "model": None}
    raw = rewrite(celery_message(ENQUEUE_TASK, arguments, expires=60, countdown=5), ORDERS)
    assert unpack(raw) == (ENQUEUE_TASK, arguments)
    headers = json.loads(raw)["headers"]
    assert headers["id"] == "an id"
    assert headers["eta"] < headers["expires"]


def test_a_message_that_is_rewritten_twice_differs_only_in_its_tag() -> None:
    once = json.loads(rewrite(celery_message(SHARD_TASK, hint_arguments(SHARD_TASK, 7)), "docmill:v1:embed"))
    twice = json.loads(rewrite(json.dumps(once).encode(), "docmill:v1:embed"))
    assert once["properties"].pop("delivery_tag") != twice["properties"].pop("delivery_tag")
    assert once == twice


HOSTILE = [
    pytest.param(raw, queue_name, id=f"{queue_name}: {name}")
    for queue_name, messages in (("docmill:v1:translate", hostile(HERE)), (ORDERS, hostile_orders(HERE)))
    for name, raw in messages.items()
]


@pytest.mark.parametrize(("raw", "queue_name"), HOSTILE)
def test_a_hostile_message_is_refused_and_nothing_of_it_is_done(raw: bytes, queue_name: str) -> None:
    with pytest.raises(BadMessage):
        rewrite(raw, queue_name)
    assert not HERE.exists()


def test_an_order_keeps_its_arguments_and_the_tasks_that_follow_but_goes_back_to_its_own_queue() -> None:
    body = [["a.csv"], {"task": "embed"}, {"chain": [{"task": "sender.follow"}], "errbacks": None}]
    headers = {"group": "g", "retries": 2, "timelimit": [1, 1], "argsrepr": "x", "parent_id": 7}
    messages = [order(body, headers)]
    for name, compress in (("gzip", zlib.compress), ("bz2", bz2.compress), ("lzma", lzma.compress)):
        messages.append(
            order(compress(json.dumps(body).encode()), {**headers, "compression": f"application/x-{name}"})
        )
    for raw in messages:
        envelope = json.loads(rewrite(raw, ORDERS))
        by_place, named, following = json.loads(base64.b64decode(envelope["body"]))
        assert (by_place, named, following["chain"]) == (["a.csv"], {"task": "embed"}, [{"task": "sender.follow"}])
        new_headers = envelope["headers"]
        assert (new_headers["group"], new_headers["retries"]) == ("g", 2)
        assert not {"compression", "timelimit", "argsrepr", "parent_id"} & new_headers.keys()
        assert envelope["properties"]["delivery_info"] == {"exchange": "", "routing_key": ORDERS}


@pytest.mark.parametrize("raw", [order(), celery_message(ENQUEUE_TASK, {"source": "a", "task": "embed"})])
def test_an_order_among_shards_is_refused(raw: bytes) -> None:
    with pytest.raises(BadMessage, match=r"is for docmill\.shard or docmill\.pipeline"):
        rewrite(raw, "docmill:v1:embed")


@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_bytes_are_refused(raw: bytes) -> None:
    for name in ("docmill:v1:embed", ORDERS):
        with pytest.raises(BadMessage):
            rewrite(raw, name)


@given(TASKS, st.dictionaries(st.text(max_size=20), VALUES, max_size=4), st.dictionaries(st.text(), VALUES))
def test_an_accepted_message_is_small_and_holds_plain_values(
    task: str, arguments: dict[str, Any], headers: dict[str, Any]
) -> None:
    raw = message(arguments, headers={**headers, "task": task, "id": "1"})
    try:
        rewritten = rewrite(raw, "docmill:v1:embed")
    except BadMessage:
        return
    assert len(rewritten) < MAX_BYTES + 2_000
    assert not any(isinstance(value, dict | list) for value in unpack(rewritten)[1].values())
