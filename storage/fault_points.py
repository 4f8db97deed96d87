"""Places where the tests make a process fail."""

from __future__ import annotations


def reach(point: str) -> None:
    """Do nothing: only the tests replace this function, in processes that are to fail at a point."""
