"""The doubt of a text whose tokens the model itself found improbable."""

from __future__ import annotations

from docmill.storage.core.outcomes import LOW_CONFIDENCE
from docmill.tasks.checks.base import Finding


def find(confidence: float | None, least: float | None) -> Finding | None:
    """Return a finding for a confidence below the least; None if one of the two is not known.

    Both are mean probabilities of a text's tokens, from 0 to 1 (`tasks.kinds.base`).
    """
    if confidence is None or least is None or confidence >= least:
        return None
    return Finding(LOW_CONFIDENCE, f"its tokens have a mean probability of {confidence:.2f}, less than {least:g}")
