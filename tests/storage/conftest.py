"""Fixtures of the tests of the store."""

from __future__ import annotations

import pytest

from docmill.storage.core.database import Database
from tests.storage.steps.test_steps import Fleet


@pytest.fixture
def fleet(database: Database) -> Fleet:
    """Does every claim of a store."""
    return Fleet(database)
