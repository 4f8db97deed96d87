"""The docmills of the tests of the worker."""

from tests.worker.conftest import call, embedded, fleet, write_corpus

__all__ = ["call", "embedded", "fleet", "write_corpus"]
