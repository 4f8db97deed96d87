"""The docmills of the tests of the worker, and the servers of the tests of faults."""

from tests.faults.conftest import own_postgres, own_redis, restartable
from tests.worker.conftest import broker, call, embedded, fleet, settings, write_corpus

__all__ = [
    "broker",
    "call",
    "embedded",
    "fleet",
    "own_postgres",
    "own_redis",
    "restartable",
    "settings",
    "write_corpus",
]
