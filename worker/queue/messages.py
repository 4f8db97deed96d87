"""Messages of the queue: the names of the queues, the strict form of a message, and its envelope.

Any program that reaches Redis may put anything into a queue. Celery sees only messages from `rewrite`, which makes a
new envelope around the few values of the old one that docmill reads.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias

import orjson

from tasks import tracing
from worker.errors import BadMessage

Plain: TypeAlias = str | int | float | bool | None  # an argument of a message

VERSION = 1
KEY_PREFIX = "docmill:"
SHARD_TASK = "docmill.shard"
ENQUEUE_TASK = "docmill.enqueue"
RUN_TASK = "docmill.pipeline"  # takes a pipeline's run further
TASKS = (SHARD_TASK, ENQUEUE_TASK, RUN_TASK)
ENQUEUE_LANE = "enqueue"  # of orders; only those workers read it that are told to
RUN_LANE = "pipelines"
MAX_BYTES = 65_536  # ours have about 1,500; a long path and every option fit


def queue(lane: str) -> str:
    """Return the queue of a lane, which is also its key in Redis.

    The protocol's version is part of the name, so that workers of two releases share one Redis without reading
    each other's messages.
    """
    return f"{KEY_PREFIX}v{VERSION}:{lane}"


def shard_message(shard_id: int) -> dict[str, int]:
    return {"v": VERSION, "shard_id": shard_id}


def run_message(run_id: int) -> dict[str, int]:
    return {"v": VERSION, "run_id": run_id}


def parse_run(arguments: Mapping[str, Plain]) -> int:
    """Return the id of a pipeline's run from a message's arguments. Raises BadMessage for any other message."""
    return _id_in(arguments, "run_id")


def parse_shard(arguments: Mapping[str, Plain]) -> int:
    """The shard id of a message's arguments. Raises BadMessage for anything that is not exactly one of ours."""
    return _id_in(arguments, "shard_id")


def _id_in(arguments: Mapping[str, Plain], name: str) -> int:
    value = arguments.get(name)
    if arguments.keys() != {"v", name} or arguments["v"] != VERSION:
        raise BadMessage(f"this message has exactly v={VERSION} and {name}, not {sorted(arguments)}")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
        raise BadMessage(f"{name} is a positive whole number")
    return value


def is_id(value: str) -> bool:
    """Return whether a text may be the id of a message or an order: it is short, and a terminal shows it as it is."""
    return 0 < len(value) <= 255 and value.isprintable()


def rewrite(raw: bytes, origin: str) -> bytes:
    """A message of the queue `origin` in an envelope of our own: its task, id, times, span and arguments, no more.

    Raises BadMessage for one that asks for anything but a task of ours with plain arguments.
    """
    envelope = _object(_json(raw), "a message")
    headers = _object(envelope.get("headers"), "its headers")
    if headers.get("task") not in TASKS:
        raise BadMessage(f"a message is for one of {', '.join(TASKS)}")
    if envelope.get("content-type") != "application/json" or envelope.get("content-encoding") != "utf-8":
        raise BadMessage("a message's body is JSON in UTF-8")
    if headers.get("compression"):
        raise BadMessage("a message's body is not compressed")
    arguments = _arguments(envelope)
    if headers["task"] == SHARD_TASK:
        arguments = shard_message(parse_shard(arguments))
    elif headers["task"] == RUN_TASK:
        arguments = run_message(parse_run(arguments))
    task_id = headers.get("id")
    if not isinstance(task_id, str) or not is_id(task_id):
        raise BadMessage("a message's id is a short text")
    more = {name: _time(headers.get(name)) for name in ("eta", "expires")}
    if (span := tracing.valid(headers.get("traceparent"))) is not None:
        more["traceparent"] = span
    return _envelope(headers["task"], task_id, more, arguments, origin)


def _arguments(envelope: dict[str, Any]) -> dict[str, Any]:
    """The named arguments, each a plain value: no list or object that Celery could take for something else."""
    body = envelope.get("body")
    if _object(envelope.get("properties"), "its properties").get("body_encoding") != "base64":
        raise BadMessage("a message's body is in base64")
    try:
        content = _json(base64.b64decode(body or "", validate=True))
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadMessage("a message's body is in base64") from error
    if not isinstance(content, list) or len(content) != 3 or content[0]:
        raise BadMessage("a message's body is its arguments, which all have names")
    if any(_object(content[2], "what follows a task").values()):
        raise BadMessage("nothing is called after a task of docmill's")
    arguments = _object(content[1], "its arguments")
    if not all(_is_plain(value) for value in arguments.values()):
        raise BadMessage("an argument is a text without zeros, a number, true, false or null")
    return arguments


def _is_plain(value: object) -> bool:
    return "\0" not in value if isinstance(value, str) else not isinstance(value, dict | list)


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


def _envelope(task: str, task_id: str, more: dict[str, str | None], arguments: dict[str, Any], origin: str) -> bytes:
    """A message as Celery's protocol 2 has it."""
    body = orjson.dumps([[], arguments, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
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
