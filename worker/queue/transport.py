"""A Redis transport for Celery that passes on rewritten messages and drops all others.

Celery's own reader would stop at the first message that is not JSON, and would decompress, call and schedule whatever
another message asks for.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from kombu.transport import redis as kombu_redis
from redis import Redis, ResponseError
from redis.connection import Connection

from docmill.worker.errors import BadMessage
from docmill.worker.queue.messages import AHEAD, rewrite

log = logging.getLogger("docmill.transport")


REFUSED_S = 2.0  # between two requests for messages to a Redis that refuses them


class LastHeard:
    """The time at which the queue last answered, with a message or without. There is one for the process."""

    def __init__(self) -> None:
        self._heard: float | None = None

    def hear(self) -> None:
        self._heard = time.monotonic()

    def heard_within(self, seconds: float) -> bool:
        return self._heard is not None and time.monotonic() - self._heard < seconds


ear = LastHeard()


class RewritingRedis(Redis):
    def parse_response(self, connection: Connection, command_name: str, **options: Any) -> Any:
        """A reply; one that brings a message which is not ours is as if nothing had come."""
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP":
            return reply
        ear.hear()
        if not reply:
            return reply
        key, raw = reply
        queue = key.decode().split(kombu_redis.Channel.sep)[0]
        try:
            return key, rewrite(raw, queue)
        except BadMessage as error:
            log.warning("message_refused queue=%s bytes=%d reason=%r", queue, len(raw), str(error)[:200])
            return None


class QoS(kombu_redis.QoS):  # type: ignore[misc]
    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Keep what this process holds from being sent again, then send again what dead processes held."""
        if self._delivered:
            held = dict.fromkeys(self._delivered, time.time())
            with self.channel.conn_or_acquire() as client:
                client.zadd(self.unacked_index_key, held, xx=True)
        super().restore_visible(*args, **kwargs)


class Channel(kombu_redis.Channel):  # type: ignore[misc]
    QoS = QoS
    priority_steps = (AHEAD, *kombu_redis.PRIORITY_STEPS)  # in the order in which they are read

    def _get_client(self) -> Any:
        return RewritingRedis

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ResponseError:  # Celery reconnects at once, and Redis goes on refusing for as long as it is read-only
            time.sleep(REFUSED_S)
            raise

    def priority(self, n: int) -> Any:
        return AHEAD if n == AHEAD else super().priority(n)

    def _queue_bind(self, *_: object) -> None:
        """Nothing: every message of ours names its queue, and no exchange is looked up in Redis."""


class Transport(kombu_redis.Transport):  # type: ignore[misc]
    Channel = Channel
