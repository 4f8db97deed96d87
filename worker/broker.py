"""The queue as docmill sees it: send hints, count what waits. Losing any of it costs time and never work."""

from __future__ import annotations

from collections.abc import Iterable

import redis
from kombu.exceptions import OperationalError

from worker.app import make_app
from worker.errors import BrokerUnreachable
from worker.messages import SHARD_TASK, queue, redis_key, shard_message
from worker.settings import mask


class Broker:
    """A Redis through Celery. Connects at the first use; safe to share by threads."""

    def __init__(self, redis_url: str) -> None:
        self.url = redis_url
        self.app = make_app(redis_url)
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=5, socket_connect_timeout=5)

    def __str__(self) -> str:
        return mask(self.url)

    def ping(self) -> None:
        """Raise BrokerUnreachable unless Redis answers."""
        try:
            self._redis.ping()
        except redis.RedisError as error:
            raise self._unreachable(error) from error

    def depth(self, lane: str) -> int:
        """How many messages wait in a lane's queue. Raises BrokerUnreachable."""
        try:
            depth = self._redis.llen(redis_key(lane))
        except redis.RedisError as error:
            raise self._unreachable(error) from error
        assert isinstance(depth, int)
        return depth

    def publish(self, lane: str, shard_ids: Iterable[int]) -> None:
        """Send a hint for each shard. Raises BrokerUnreachable; then some may have been sent."""
        try:
            with self.app.producer_or_acquire() as producer:
                for shard_id in shard_ids:
                    self.app.send_task(
                        SHARD_TASK,
                        kwargs=shard_message(shard_id),
                        queue=queue(lane),
                        producer=producer,
                        retry=False,
                        ignore_result=True,
                    )
        except (OperationalError, redis.RedisError, OSError) as error:
            raise self._unreachable(error) from error

    def server_facts(self) -> dict[str, str]:
        """What an operator must know of the server: version, eviction and persistence. Raises BrokerUnreachable."""
        try:
            info = self._redis.info()
            config = self._redis.config_get("maxmemory*") | self._redis.config_get("appendonly")
        except redis.ResponseError:
            info, config = self._redis.info(), {}
        except redis.RedisError as error:
            raise self._unreachable(error) from error
        return {
            "version": str(info.get("redis_version", "unknown")),
            "eviction": str(config.get("maxmemory-policy", "unknown")),
            "maxmemory": str(config.get("maxmemory", "unknown")),
            "appendonly": str(config.get("appendonly", "unknown")),
        }

    def close(self) -> None:
        self.app.close()
        self._redis.close()

    def _unreachable(self, error: Exception) -> BrokerUnreachable:
        return BrokerUnreachable(f"cannot reach Redis at {self}: {type(error).__name__}; is it running?")
