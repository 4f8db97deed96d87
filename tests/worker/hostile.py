"""Messages from someone who means harm, as they would lie in a queue."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
from pathlib import Path
from typing import Any

from worker.queue.messages import ENQUEUE_TASK, SHARD_TASK, shard_message


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def encoded(body: Any) -> str:
    return base64.b64encode(body if isinstance(body, bytes) else json.dumps(body).encode()).decode()


def message(
    arguments: Any = None,
    *,
    after: dict[str, Any] | None = None,
    content_type: str = "application/json",
    **parts: Any,
) -> bytes:
    """A message like Celery's for shard 1, but for what is given."""
    arguments = shard_message(1) if arguments is None else arguments
    headers = {"lang": "py", "task": SHARD_TASK, "id": "1", **parts.pop("headers", {})}
    whole = {
        "body": encoded([[], arguments, after or {"callbacks": None}]),
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
    """Messages of which none may be obeyed, by what they are. Code that one ran would make the file `trap`."""
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
        "a call afterwards": message(after={"callbacks": [link]}),
        "an error's call": message({"v": 1, "shard_id": -1}, after={"errbacks": [link]}),
        "one argument more": message({"v": 1, "shard_id": 1, "trust_remote_code": True}),
        "an id beyond every table": message({"v": 1, "shard_id": 2**63}),
        "an id beyond every number": message({"v": 1, "shard_id": 10**400}),
        "an object for an id": message({"v": 1, "shard_id": {"__type__": "uuid", "__value__": "x"}}),
        "a path with a zero": message({"source": "a\0b", "task": "embed"}, headers={"task": ENQUEUE_TASK}),
        "half a letter": message({"source": "\ud800", "task": "embed"}, headers={"task": ENQUEUE_TASK}),
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
