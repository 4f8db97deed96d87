"""Fixtures for tests of readers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage.readers.site import Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server."""
    with serving() as server:
        yield server
