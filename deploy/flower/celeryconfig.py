"""Celery's configuration for Flower: the names under which docmill's queues are in Redis. Flower needs no docmill.

CELERY_BROKER_URL is the Redis, as in DOCMILL_REDIS_URL.
"""

from kombu import Queue

LANES = (
    *("summarize", "translate", "embed", "sparse", "generate", "classify", "entities", "redact", "extract", "answer"),
    *("pipelines", "enqueue"),
)

broker_transport_options = {"fanout_prefix": "docmill:/{db}."}
task_default_queue = "docmill:v1:enqueue"
task_queues = [Queue(f"docmill:v1:{lane}") for lane in LANES]
accept_content = ["json"]
