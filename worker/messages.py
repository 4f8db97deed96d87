"""What travels through the queue: the names of the queues and the strict shape of a message."""

from __future__ import annotations

from typing import Any

from worker.errors import BadMessage

VERSION = 1
KEY_PREFIX = "docmill:"
SHARD_TASK = "docmill.shard"
ENQUEUE_TASK = "docmill.enqueue"
ENQUEUE_LANE = "enqueue"


def queue(lane: str) -> str:
    """The queue of a lane as Celery names it; in Redis its key is `docmill:v1:<lane>`.

    The protocol's version is part of the name, so that workers of two releases share one Redis without reading
    each other's messages.
    """
    return f"v{VERSION}:{lane}"


def redis_key(lane: str) -> str:
    return f"{KEY_PREFIX}{queue(lane)}"


def shard_message(shard_id: int) -> dict[str, int]:
    return {"v": VERSION, "shard_id": shard_id}


def parse_shard(arguments: dict[str, Any]) -> int:
    """The shard id of a message's arguments. Raises BadMessage for anything that is not exactly one of ours."""
    shard_id = arguments.get("shard_id")
    if arguments.keys() != {"v", "shard_id"} or arguments["v"] != VERSION:
        raise BadMessage(f"a shard's message has exactly v={VERSION} and shard_id, not {sorted(arguments)}")
    if not isinstance(shard_id, int) or isinstance(shard_id, bool) or shard_id <= 0:
        raise BadMessage("a shard's id is a positive whole number")
    return shard_id
