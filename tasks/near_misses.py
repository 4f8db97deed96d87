"""Suggestions for a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Two letters exchanged in a word of six are a ratio of 0.83; words that only share letters stay below 0.75.
_NEAR = 0.8


def nearly(written: str, known: Iterable[str]) -> list[str]:
    """Return the known names that differ from a written name by a typing slip, the nearest first."""
    return difflib.get_close_matches(written.lower(), list(known), cutoff=_NEAR)


def hint(written: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the question if one of the known names was meant, or `otherwise` if none is near."""
    near = nearly(written, known)
    return f"Did you mean {' or '.join(near)}?" if near else otherwise
