"""The Celery app. Each setting is stated once, with its reason."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES

from docmill.worker import redis_urls
from docmill.worker.queue.messages import ENQUEUE_LANE, KEY_PREFIX, RUN_LANE, queue
from docmill.worker.settings import LANES

TRANSPORT_ALIASES[redis_urls.SCHEME] = "docmill.worker.queue.transport:Transport"

VISIBILITY_S = 120

CONFIG: dict[str, Any] = {
    # A message is a hint and may come from anyone who reaches Redis: nothing but JSON is ever parsed, and Celery sees
    # only what `worker.queue.transport` made of it.
    "task_serializer": "json",
    "accept_content": ["json"],
    # Results live in SQL; a second place for them could only disagree. Only `docmill.enqueue` has one in Redis, for
    # a day: the number of its job.
    "task_ignore_result": True,
    "redis_socket_timeout": 10,
    "redis_socket_connect_timeout": 5,
    # A hint may be lost: the shard's lease, not the message, says whether its work was done.
    "task_acks_late": False,
    # A prefetched hint would wait behind a long shard while another worker idles.
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    # CUDA does not survive a fork, and one model serves all threads.
    "worker_pool": "threads",
    # Nothing here needs workers to talk to each other, and nobody is to steer them by Redis. Their events cost Redis
    # connections, so a worker sends them only where DOCMILL_CELERY_EVENTS asks for them.
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "task_send_sent_event": False,
    # Redis may come later than we do, and may go away for as long as it likes.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # Nor does a Redis that takes no writes, or has no room, end a process: Celery takes its refusal for a channel's.
    "broker_channel_error_retry": True,
    # A shard under way has its lease; losing the broker is no reason to stop computing it.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    # Tasks that follow an order go to the queue that they name, or else to Celery's own default, `celery`.
    "task_queues": [Queue(queue(lane)) for lane in (*LANES, RUN_LANE, ENQUEUE_LANE)],
    "broker_transport_options": {
        # Everything of ours in a shared Redis begins alike, so that an ACL can name it.
        "unacked_key": f"{KEY_PREFIX}unacked",
        "unacked_index_key": f"{KEY_PREFIX}unacked_index",
        "unacked_mutex_key": f"{KEY_PREFIX}unacked_mutex",
        "fanout_prefix": f"{KEY_PREFIX}/{{db}}.",
        # A half-open socket is noticed instead of waited on for ever: the one that waits for messages after twice the
        # health check, and then one or two others, each after its timeout.
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # Only `docmill.enqueue` is acknowledged late, once its source is read. It comes again if its worker died; a
        # worker that lives keeps it (`worker.queue.transport`).
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_throttle": 1,
    },
}


def make_app(redis_url: str, ask_every_s: float | None = None) -> Celery:
    """A Celery app on that Redis. Makes no connection, and no global state.

    A worker asks for messages every second, or every `ask_every_s`, and ends between two requests.
    """
    app = Celery("docmill", broker=redis_urls.for_celery(redis_url), set_as_current=False)
    app.conf.result_backend = redis_urls.for_results(redis_url)
    app.conf.update(CONFIG)
    if ask_every_s is not None:
        app.conf.broker_transport_options = CONFIG["broker_transport_options"] | {"polling_interval": ask_every_s}
    return app
