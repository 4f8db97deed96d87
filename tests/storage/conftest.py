"""Fixtures for tests of the store."""

from __future__ import annotations

import pytest

from docmill.storage.core.database import Database
from tests.storage.fleet import Fleet


@pytest.fixture
def fleet(database: Database) -> Fleet:
    """A fleet that claims and computes the shards of the test's store."""
    return Fleet(database)
