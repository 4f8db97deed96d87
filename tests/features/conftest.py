"""The docmills of the tests of the worker, and the servers of the tests of faults."""

from tests.faults.conftest import own_postgres, own_redis, restartable
from tests.worker.conftest import call, embedded, fleet, write_corpus

__all__ = [
    "call",
    "embedded",
    "fleet",
    "own_postgres",
    "own_redis",
    "restartable",
    "write_corpus",
]
