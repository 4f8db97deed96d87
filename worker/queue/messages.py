"""Messages of the queue: the names of the queues, the strict form of a message, and its envelope.

Any program that reaches Redis may put anything into a queue. Celery sees only messages from `rewrite`, which makes a
new envelope around the few values of the old one that docmill reads. An order (`docmill.enqueue`) keeps its
arguments, and the tasks that follow it.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import lzma
import uuid
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeAlias

import orjson

from docmill.tasks import tracing
from docmill.worker.errors import BadMessage
from docmill.worker.settings import ENQUEUE_LANE

Plain: TypeAlias = str | int | float | bool | None  # an argument of a message

VERSION = 1
KEY_PREFIX = "docmill:"
SHARD_TASK = "docmill.shard"
ENQUEUE_TASK = "docmill.enqueue"
RUN_TASK = "docmill.pipeline"  # takes a pipeline's run further
ID_NAMES = MappingProxyType({SHARD_TASK: "shard_id", RUN_TASK: "run_id"})  # the argument with the id, by task
AHEAD = 1  # the priority of messages that go ahead; those of other programs have 0, or another of kombu's own
RUN_LANE = "pipelines"
MAX_BYTES = 65_536  # docmill's own have about 1,500; a long path and every option fit
_NOTHING_FOLLOWS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_DECOMPRESSORS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "application/x-gzip": zlib.decompressobj,  # Celery's name for zlib
        "application/x-bz2": bz2.BZ2Decompressor,
        "application/x-lzma": lzma.LZMADecompressor,
    }
)


def queue(lane: str) -> str:
    """Return the queue of a lane, which is also its key in Redis.

    The protocol's version is part of the name, so that workers of two releases share one Redis without reading
    each other's messages.
    """
    return f"{KEY_PREFIX}v{VERSION}:{lane}"


def key_ahead(queue: str) -> str:
    """Return the key in Redis, as kombu has it, of the messages of a queue that go ahead."""
    return f"{queue}\x06\x16{AHEAD}"


def hint_arguments(task: str, row_id: int) -> dict[str, int]:
    """Return the arguments of a message about a shard or a pipeline's run."""
    return {"v": VERSION, ID_NAMES[task]: row_id}


def parse_hint(task: str, arguments: Mapping[str, Plain]) -> int:
    """Return the id in the arguments of a message about a shard or a run. Raises BadMessage for any other message."""
    name = ID_NAMES[task]
    value = arguments.get(name)
    if arguments.keys() != {"v", name} or arguments["v"] is True or arguments["v"] != VERSION:
        raise BadMessage(f"this message has exactly v={VERSION} and {name}, not {sorted(arguments)}")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
        raise BadMessage(f"{name} is a positive whole number")
    return value


def is_id(value: str) -> bool:
    """Return True if a text may be the id of a message or an order: it is short and printable."""
    return 0 < len(value) <= 255 and value.isprintable()


def rewrite(raw: bytes, origin: str) -> bytes:
    """Return a message of the queue `origin` in our own envelope: its task, id, times, span and arguments, no more.

    Raises BadMessage for one that asks for anything but the lane's task, with the arguments that it takes.
    """
    envelope = _object(_json(raw), "a message")
    headers = _object(envelope.get("headers"), "its headers")
    task, tasks = headers.get("task"), (ENQUEUE_TASK,) if origin == queue(ENQUEUE_LANE) else tuple(ID_NAMES)
    if task not in tasks:
        raise BadMessage(f"a message of this queue is for {' or '.join(tasks)}")
    if envelope.get("content-type") != "application/json" or envelope.get("content-encoding") != "utf-8":
        raise BadMessage("a message's body is JSON in UTF-8")
    task_id = headers.get("id")
    if not isinstance(task_id, str) or not is_id(task_id):
        raise BadMessage("a message's id is a short text")
    more: dict[str, Any] = {name: _time(headers.get(name)) for name in ("eta", "expires")}
    if (span := tracing.valid(headers.get("traceparent"))) is not None:
        more["traceparent"] = span
    content = _body(envelope, headers.get("compression"))
    if task == ENQUEUE_TASK:
        return _envelope(ENQUEUE_TASK, task_id, more | _kept(headers), _order(content), origin)
    arguments = hint_arguments(task, parse_hint(task, _arguments(content)))
    return _envelope(task, task_id, more, [[], arguments, _NOTHING_FOLLOWS], origin)


def _body(envelope: dict[str, Any], compression: object) -> list[Any]:
    """Return the body of a message: positional arguments, named arguments, and the tasks that follow."""
    body = envelope.get("body")
    if _object(envelope.get("properties"), "its properties").get("body_encoding") != "base64":
        raise BadMessage("a message's body is in base64")
    try:
        content = base64.b64decode(body or "", validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadMessage("a message's body is in base64") from error
    parts = _json(content if compression is None else _decompressed(content, compression))
    if not isinstance(parts, list) or len(parts) != 3:
        raise BadMessage(
            "a message's body is a list of arguments, an object of named ones, and the tasks that follow"
        )
    return parts


def _decompressed(content: bytes, compression: object) -> bytes:
    make = _DECOMPRESSORS.get(str(compression))
    if make is None:
        raise BadMessage(f"a body is compressed by gzip, bzip2 or lzma, if at all, not by {compression!r}")
    try:
        plain: bytes = make().decompress(content, MAX_BYTES + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise BadMessage("a message's body cannot be decompressed") from error
    return plain


def _order(content: list[Any]) -> list[Any]:
    """Return the body of an order. Celery takes each argument, and each task that follows, as it is."""
    by_place, named, following = content
    following = _object(following, "what follows an order")
    if not isinstance(by_place, list):
        raise BadMessage("an order's arguments are a list and an object")
    for name in ("callbacks", "errbacks", "chain"):
        tasks = following.get(name) or []
        if not isinstance(tasks, list) or not all(isinstance(task, dict) and "task" in task for task in tasks):
            raise BadMessage(f"{name}: a list of tasks was expected")
    if not isinstance(following.get("chord"), dict | None):
        raise BadMessage("chord: a task was expected")
    return [by_place, _object(named, "its arguments"), {name: following.get(name) for name in _NOTHING_FOLLOWS}]


def _kept(headers: dict[str, Any]) -> dict[str, Any]:
    """Return the headers of an order by which Celery joins it to other tasks, and counts how often it waited."""
    kinds = {**dict.fromkeys(("root_id", "parent_id", "group"), str), "group_index": int, "retries": int}
    kinds["ignore_result"] = bool
    return {name: headers[name] for name, kind in kinds.items() if type(headers.get(name)) is kind}


def _arguments(content: list[Any]) -> dict[str, Any]:
    if content[0]:
        raise BadMessage("the arguments of this task have names")
    if any(_object(content[2], "what follows a task").values()):
        raise BadMessage("nothing is called after this task")
    return _object(content[1], "its arguments")


def _json(raw: bytes) -> Any:
    if len(raw) > MAX_BYTES:
        raise BadMessage(f"a message has at most {MAX_BYTES:,} bytes, not {len(raw):,}")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadMessage("a message is JSON") from error


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadMessage(f"{what}: an object was expected")
    return value


def _time(value: object) -> str | None:
    try:
        return None if value is None else datetime.fromisoformat(str(value)).isoformat()
    except ValueError as error:
        raise BadMessage("a message's times are ISO 8601") from error


def _envelope(task: str, task_id: str, more: dict[str, Any], content: list[Any], origin: str) -> bytes:
    """Return a message as Celery's protocol 2 has it."""
    body = orjson.dumps(content)
    return orjson.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0, **more},
            "properties": {
                "correlation_id": task_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": origin},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
