"""Hostile messages, as they would lie in a queue."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

from docmill.worker.queue.messages import ENQUEUE_TASK, SHARD_TASK, hint_arguments, queue
from docmill.worker.settings import ENQUEUE_LANE


class Touch:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def encoded(body: Any) -> str:
    return base64.b64encode(body if isinstance(body, bytes) else json.dumps(body).encode()).decode()


def message(
    arguments: Any = None,
    *,
    following: dict[str, Any] | None = None,
    content_type: str = "application/json",
    **parts: Any,
) -> bytes:
    """Return a message like Celery's for shard 1, with these parts replaced."""
    arguments = hint_arguments(SHARD_TASK, 1) if arguments is None else arguments
    headers = {"lang": "py", "task": SHARD_TASK, "id": "1", **parts.pop("headers", {})}
    whole = {
        "body": encoded([[], arguments, following or {"callbacks": None}]),
        "content-type": content_type,
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "1",
            "delivery_info": {"exchange": "", "routing_key": "docmill:v1:translate"},
        },
    }
    return json.dumps(whole | parts).encode()


def hostile(trap: Path) -> dict[str, bytes]:
    """Return hostile messages by their descriptions. Any code that they run makes the file `trap`."""
    pickled = pickle.dumps(Touch(trap))
    yaml = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{trap}']]".encode()
    bomb = gzip.compress(b"[" + b" " * 20_000_000 + b"]")
    link = {
        "task": "docmill.enqueue",
        "kwargs": {"source": "/etc/passwd", "task": "embed"},
        "args": [],
        "options": {},
    }
    return {
        "no JSON": b"\x80\x04\x95 and more",
        "pickled instead of JSON": pickled,
        "a pickled body": message(body=encoded(pickled), content_type="application/x-python-serialize"),
        "a body in YAML": message(body=encoded(yaml), content_type="application/x-yaml"),
        "a task of Celery's": message({}, headers={"task": "celery.backend_cleanup"}),
        "an unknown task": message({}, headers={"task": "os.system"}),
        "a task that is no name": message(headers={"task": ["docmill.shard"]}),
        "8 megabytes": message({"v": 1, "shard_id": "1" * 8_000_000}),
        "nested too deep": b"[" * 60_000,
        "a body nested too deep": message(body=encoded(b"[" * 40_000)),
        "a body that explodes": message(body=encoded(bomb), headers={"compression": "application/x-gzip"}),
        "a call afterwards": message(following={"callbacks": [link]}),
        "an error's call": message({"v": 1, "shard_id": -1}, following={"errbacks": [link]}),
        "one argument more": message({"v": 1, "shard_id": 1, "trust_remote_code": True}),
        "a version that is true": message({"v": True, "shard_id": 1}),
        "an id beyond every table": message({"v": 1, "shard_id": 2**63}),
        "an id beyond every number": message({"v": 1, "shard_id": 10**400}),
        "an object for an id": message({"v": 1, "shard_id": {"__type__": "uuid", "__value__": "x"}}),
        "half a letter": message({"v": 1, "shard_id": "\ud800"}),
        "arguments without names": message(body=encoded([[1], {}, {}])),
        "arguments that are a list": message(body=encoded([[], [], {}])),
        "a list": b"[1, 2]",
        "nothing": b"",
        "an empty object": b"{}",
        "headers that are none": message(headers={}).replace(b'"headers": {', b'"heads": {'),
        "properties that are a text": message(properties="-"),
        "a body that is no base64": message(body="\u00e9=="),
        "a body that is a number": message(body=7),
        "an invalid time": message(headers={"eta": "soon"}),
        "a time that is a list": message(headers={"expires": [1]}),
        "an id that is an object": message(headers={"id": {}}),
        "a very long id": message(headers={"id": "1" * 10_000}),
    }


def order(body: Any = None, headers: dict[str, Any] | None = None, **following: Any) -> bytes:
    """Return a `docmill.enqueue` message, with another body, other headers, or tasks that follow."""
    content = encoded([[], {"source": "a", "task": "embed"}, following]) if body is None else encoded(body)
    about = {"exchange": "", "routing_key": queue(ENQUEUE_LANE)}
    properties = {"body_encoding": "base64", "delivery_tag": "1", "delivery_info": about}
    return message(body=content, headers={"task": ENQUEUE_TASK, **(headers or {})}, properties=properties)


def hostile_orders(trap: Path) -> dict[str, bytes]:
    """Return hostile messages for the queue of orders, by their descriptions."""
    bomb = zlib.compress(b"[" + b" " * 20_000_000 + b"]")
    return {
        "a shard": message(),
        "a task of Celery's": order(headers={"task": "celery.map"}),
        "a pickled body": order(pickle.dumps(Touch(trap))),
        "a body that explodes": order(bomb, {"compression": "application/x-gzip"}),
        "a body that is not compressed": order(b"[]", {"compression": "application/x-bz2"}),
        "an unknown compression": order(b"[]", {"compression": ["application/x-gzip"]}),
        "a body nested too deep": order(b"[[], {}, {}, " + b"[" * 40_000),
        "arguments that are no list": order([{}, {}, {}]),
        "named arguments that are a list": order([[], [], {}]),
        "a callback that is a text": order(callbacks="celery.map"),
        "a callback without a task": order(callbacks=[{"args": []}]),
        "a chain of texts": order(chain=["celery.map"]),
        "a chord that is a list": order(chord=[]),
        "half a letter": order(b'[["\\ud800"], {}, {}]'),
        "an invalid time": order(headers={"eta": "soon"}),
        "a very long id": order(headers={"id": "1" * 10_000}),
    }
