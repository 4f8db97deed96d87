"""Listeners to a search for near duplicates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["sign", "compare"]
PHASES: dict[Phase, str] = {"sign": "signing texts", "compare": "comparing"}
Advanced: TypeAlias = Callable[[Phase, int, int], None]  # the phase, its steps that are done, and all its steps


def unheard(_phase: Phase, _done: int, _total: int) -> None:
    """Tell nobody."""
