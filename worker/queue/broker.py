"""The broker and its Celery app: send hints to the queue and count waiting messages.

A lost message costs time and never work.
"""

from __future__ import annotations

import logging
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from redis import Redis, ResponseError
from redis.connection import Connection
from redis.exceptions import LockNotOwnedError
from redis.lock import Lock

from docmill.tasks import tracing
from docmill.tasks.tracing import messaging
from docmill.worker.errors import BadMessage, BrokerUnreachable, OrderBusy
from docmill.worker.queue.messages import (
    AHEAD,
    KEY_PREFIX,
    RUN_LANE,
    RUN_TASK,
    SHARD_TASK,
    hint_arguments,
    key_ahead,
    queue,
    rewrite,
)
from docmill.worker.settings import ENQUEUE_LANE, LANES, mask

log = logging.getLogger("docmill.transport")


REFUSED_S = 2.0  # between two requests for messages to a Redis that refuses them


class RewritingRedis(Redis):
    heard_at = -math.inf  # when the queue last answered this process, by the monotonic clock

    def parse_response(self, connection: Connection, command_name: str, **options: Any) -> Any:
        """Return a reply. A message that is not docmill's is dropped, as if none had come."""
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP":
            return reply
        RewritingRedis.heard_at = time.monotonic()
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
        """Send messages of dead processes again, but none that this process holds."""
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
        """Do nothing: every message of docmill names its queue, and no exchange is looked up in Redis."""


class Transport(kombu_redis.Transport):  # type: ignore[misc]
    Channel = Channel


SCHEME = "docmill"  # of Celery's URL: names `Transport`
TRANSPORT_ALIASES[SCHEME] = "docmill.worker.queue.broker:Transport"

VISIBILITY_S = 120

CONFIG: dict[str, Any] = {
    # A message is a hint and may come from anyone who reaches Redis: nothing but JSON is ever parsed, and Celery sees
    # only what `RewritingRedis` made of it.
    "task_serializer": "json",
    "accept_content": ["json"],
    # Results live in SQL; a second place for them could only disagree. Only `docmill.enqueue` has one in Redis, for
    # a day: the number of its job.
    "task_ignore_result": True,
    "redis_socket_timeout": 10,
    "redis_socket_connect_timeout": 5,
    # A hint may be lost: the shard's lease, not the message, shows if its work was done.
    "task_acks_late": False,
    # A prefetched hint would wait behind a long shard while another worker idles.
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    # Workers need not talk to each other, and nobody may control them through Redis. Events would cost connections.
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "task_send_sent_event": False,
    # Redis may start later than docmill, and may be away for any time.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # A Redis that refuses writes must not end a process: Celery takes the refusal for an error of the channel.
    "broker_channel_error_retry": True,
    # A shard under way has its lease; losing the broker is no reason to stop computing it.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    # Tasks that follow an order go to the queue that they name, or else to Celery's own default, `celery`.
    "task_queues": [Queue(queue(lane)) for lane in (*LANES, RUN_LANE, ENQUEUE_LANE)],
    "broker_transport_options": {
        # All keys of docmill in a shared Redis have one prefix, so that an ACL can name them.
        "unacked_key": f"{KEY_PREFIX}unacked",
        "unacked_index_key": f"{KEY_PREFIX}unacked_index",
        "unacked_mutex_key": f"{KEY_PREFIX}unacked_mutex",
        # These notice half-open sockets: the socket that waits for messages after twice the health check, and each of
        # the others after its timeout.
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # Only `docmill.enqueue` is acknowledged late, once its source is read. It comes again if its worker died; a
        # worker that lives keeps it (`QoS`).
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_throttle": 1,
    },
}


def celery_url_of(url: str) -> str:
    """Return the URL for Celery: our own transport, a socket and its database in Celery's spelling.

    Certificates are verified, which Celery leaves out where the URL does not ask for it.
    """
    if not url.startswith("unix://"):
        return f"{SCHEME}://{redis_url_of(url).partition('://')[2]}"
    socket, _, query = url.removeprefix("unix://").partition("?")
    database = dict(parse_qsl(query)).get("db")
    return f"{SCHEME}+socket://{socket}" + (f"?virtual_host={database}" if database else "")


def results_url_of(url: str) -> str:
    """Return the URL of Celery's own Redis backend for results."""
    return celery_url_of(url).replace(SCHEME, "redis", 1) if url.startswith("unix://") else redis_url_of(url)


def redis_url_of(url: str) -> str:
    """Return the URL for redis-py. It verifies certificates of itself, but host names only in its later versions."""
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return url
    query = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"} | dict(parse_qsl(parts.query))
    return urlunsplit(parts._replace(query=urlencode(query)))


_DAY_S = 86_400


class Broker:
    """A Redis through Celery. Connects at the first use; safe to share by threads.

    A worker asks for messages every second, or every `ask_every_s`, and ends between two requests.
    """

    def __init__(self, redis_url: str, ask_every_s: float | None = None) -> None:
        self.url = redis_url
        self.app = Celery("docmill", broker=celery_url_of(redis_url), set_as_current=False)
        self.app.conf.result_backend = results_url_of(redis_url)
        self.app.conf.update(CONFIG)
        if ask_every_s is not None:
            options = CONFIG["broker_transport_options"] | {"polling_interval": ask_every_s}
            self.app.conf.broker_transport_options = options
        self._redis = redis.Redis.from_url(redis_url_of(redis_url), socket_timeout=5, socket_connect_timeout=5)
        self._ended: set[str] = set()  # keys of attempts that ended here, until Redis has deleted them

    def __str__(self) -> str:
        return mask(self.url)

    def ping(self) -> None:
        """Raise BrokerUnreachable unless Redis answers."""
        with self._reaching():
            self._redis.ping()

    def require_rights(self, *, takes_orders: bool) -> None:
        """Raise BrokerUnreachable unless Redis answers and lets its user do all that a worker does."""
        probes = PROBES + (ORDER_PROBES if takes_orders else ())
        with self._reaching():
            missing = not_permitted(self._redis, probes)
        if missing:
            commands = " ".join(f"+{name}" for name in missing)
            raise BrokerUnreachable(f"the user of Redis at {self} lacks {commands}; {DOCS}")

    def depth(self, lane: str) -> int:
        """Return the number of messages in a lane's queue. Raises BrokerUnreachable."""
        with self._reaching(), self._redis.pipeline(transaction=False) as pipeline:
            for key in (queue(lane), key_ahead(queue(lane))):
                pipeline.llen(key)
            return sum(pipeline.execute())

    @contextmanager
    def attempt(
        self, order_id: str, lease_s: float, stop: threading.Event
    ) -> Iterator[tuple[int, Callable[[], bool]]]:
        """Let one process at a time work on an order in this block, for as long as it renews its lease.

        Yield the number of processes that died in the block with the order within the last day, and the function that
        renews the lease. A process that was told to `stop` does not count as dead. Raises OrderBusy and
        BrokerUnreachable.
        """
        attempts = f"{KEY_PREFIX}attempts:{order_id}"
        lease = Lock(
            self._redis, f"{KEY_PREFIX}lease:{order_id}", timeout=lease_s, blocking=False, thread_local=False
        )

        def renew() -> bool:
            with suppress(redis.RedisError):  # nobody else can take it from a Redis that is away
                try:
                    lease.reacquire()
                except LockNotOwnedError:  # it lapsed while Redis was away
                    if not lease.acquire():
                        return False
                if stop.is_set():
                    self._redis.delete(attempts)
            return True

        def end() -> None:
            if ended := [*self._ended]:
                self._redis.delete(*ended)
                self._ended.difference_update(ended)

        with self._reaching():
            end()
            if not lease.acquire():
                raise OrderBusy
            deaths = int(self._redis.get(attempts) or 0)
            self._redis.set(attempts, deaths + 1, ex=_DAY_S)
        try:
            yield deaths, renew
        finally:
            self._ended.add(attempts)
            with suppress(redis.RedisError):
                end()
                lease.release()

    def publish(self, lane: str, shard_ids: Iterable[int], *, ahead: bool = False) -> None:
        """Send a hint for each shard, behind all that wait, or with `ahead` only behind others sent ahead.

        Raises BrokerUnreachable; then some may have been sent.
        """
        self._send(SHARD_TASK, lane, [*shard_ids], AHEAD if ahead else None)

    def publish_run(self, run_id: int) -> None:
        """Ask any free worker to take a pipeline's run further. Raises BrokerUnreachable."""
        self._send(RUN_TASK, RUN_LANE, [run_id])

    def _send(self, task: str, lane: str, row_ids: Sequence[int], priority: int | None = None) -> None:
        if not row_ids:
            return
        about = messaging("send", queue(lane)) | {"messaging.batch.message_count": len(row_ids)}
        with tracing.span(f"send {queue(lane)}", about, kind="producer") as span:
            headers = {} if span.traceparent is None else {"traceparent": span.traceparent}
            with self._reaching(), self.app.producer_or_acquire() as producer:
                for row_id in row_ids:
                    self.app.send_task(
                        task,
                        kwargs=hint_arguments(task, row_id),
                        queue=queue(lane),
                        producer=producer,
                        retry=False,
                        ignore_result=True,
                        headers=headers,
                        priority=priority,
                    )

    def server_facts(self) -> dict[str, str]:
        """Return the server's version, eviction policy and persistence; "unknown" where its user may not ask.

        Raises BrokerUnreachable.
        """
        with self._reaching():
            self._redis.ping()
            info = self._ask(self._redis.info)
            config = self._ask(
                lambda: self._redis.config_get("maxmemory-policy") | self._redis.config_get("appendonly")
            )
        return {
            "version": str(info.get("redis_version", "unknown")),
            "eviction": str(config.get("maxmemory-policy", info.get("maxmemory_policy", "unknown"))),
            "appendonly": str(config.get("appendonly", "unknown")),
        }

    def clock(self) -> float | None:
        """Return the server's time in seconds since 1970; None if its user may not ask. Raises BrokerUnreachable."""
        with self._reaching():
            try:
                seconds, microseconds = self._redis.time()
            except redis.exceptions.NoPermissionError:
                return None
        return float(seconds) + microseconds / 1e6

    def _ask(self, question: Callable[[], Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = question()
        except redis.ResponseError:
            return {}
        return answer

    def close(self) -> None:
        self.app.close()
        self._redis.close()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Raise BrokerUnreachable for an error of Redis or of the connection to it."""
        try:
            yield
        except (OperationalError, redis.RedisError, OSError) as error:
            raise BrokerUnreachable(_explain(error, str(self))) from error


DOCS = "docs/security.md lists the rights that docmill needs"

_NOT_PERMITTED = (redis.exceptions.NoPermissionError, redis.exceptions.ExecAbortError)
_LIST, _HASH, _SET, _LOCK = (f"docmill:probe:{kind}" for kind in ("list", "hash", "set", "lock"))
_RESULT = "celery-task-meta-docmill-probe"

# Every command that a worker sends, on keys of their own, so that nothing is left. A worker's user needs these rights
# and no others (docs/security.md; a test compares them).
PROBES: tuple[tuple[Any, ...], ...] = (
    ("PING",),
    ("LLEN", _LIST),
    ("LPUSH", _LIST, "probe"),
    ("RPUSH", _LIST, "probe"),
    ("BRPOP", _LIST, 0.01),
    ("ZADD", _SET, 0, "probe"),
    ("ZRANGE", _SET, 0, 0),
    ("ZREM", _SET, "probe"),
    ("HSET", _HASH, "probe", ""),
    ("HGET", _HASH, "probe"),
    ("HDEL", _HASH, "probe"),
    ("SET", _LOCK, "", "PX", 1000),
    ("GET", _LOCK),
    ("SCRIPT LOAD", "return 0"),
    ("EVALSHA", "0" * 40, 1, _LOCK),
    ("WATCH", _LOCK),
    ("UNWATCH",),
    ("DEL", _LIST, _LOCK),
    ("MULTI",),
    ("EXEC",),
)

# Commands that only a worker which takes orders needs: it renews their leases, and keeps their results where Celery
# looks for them.
ORDER_PROBES: tuple[tuple[Any, ...], ...] = (
    ("PEXPIRE", _LOCK, 1000),
    ("SETEX", _RESULT, 1, ""),
    ("PUBLISH", _RESULT, ""),
)


def not_permitted(client: redis.Redis, probes: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return the commands, or their keys, that this user may not use. Raises RedisError if Redis does not answer."""
    missing = []
    with client.client() as one_connection:  # type: ignore[no-untyped-call]
        for name, *arguments in probes:
            try:
                one_connection.execute_command(name, *arguments)
            except _NOT_PERMITTED:
                missing.append(name.lower().replace(" ", "|"))
            except redis.ResponseError:
                pass  # it may: there is no such script
    return missing


def _explain(error: BaseException, where: str) -> str:
    """Return the reason why the Redis at a (masked) URL cannot be used, and what to do."""
    for cause in _causes(error):
        if isinstance(cause, redis.AuthenticationError):
            return f"Redis at {where} does not know the user and password of DOCMILL_REDIS_URL"
        if isinstance(cause, _NOT_PERMITTED):
            return f"Redis at {where} refuses what docmill does: {cause}; {DOCS}"
        if isinstance(cause, redis.ResponseError):
            return f"Redis at {where} refuses what docmill does: {cause}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of Redis at {where} is not trusted: {cause.verify_message}; "
                "name its CA in the URL: ?ssl_ca_certs=FILE"
            )
        if isinstance(cause, FileNotFoundError | PermissionError):
            return f"cannot use Redis at {where}: {cause.strerror} (its socket, or a file that the URL names)"
        if isinstance(cause, ssl.SSLError):
            return f"cannot speak TLS with Redis at {where}: {cause.reason or type(cause).__name__}"
    return f"cannot reach Redis at {where}: {type(error).__name__}; check that it runs"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
