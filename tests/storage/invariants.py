"""The invariants of a store, for tests that end with one."""

from __future__ import annotations

from docmill.storage.core.database import Database
from docmill.storage.core.invariants import check_invariants


def assert_invariants(database: Database, *names: str) -> None:
    """Assert that a store is as it must be at every moment, by all invariants or those of these names."""
    with database.read() as transaction:
        broken = {
            invariant.sentence: rows
            for invariant, rows, _ in check_invariants(transaction)
            if rows and (not names or invariant.name in names)
        }
    assert not broken, "\n".join(f"{sentence} But: {rows}" for sentence, rows in broken.items())
