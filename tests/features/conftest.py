"""The docmills of the tests of the worker."""

from tests.worker.conftest import embedded, fleet, write_corpus

__all__ = ["embedded", "fleet", "write_corpus"]
