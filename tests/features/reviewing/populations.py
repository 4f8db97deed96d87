"""Populations of outputs that tests draw samples from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from docmill.features.reviewing.population import Population

FLAG_SETS = ((), ("repetition",), ("numbers_changed", "repetition"), ("windowed",))


def population(
    flags: Sequence[int], confidence: Sequence[float | None] | None = None, *, seed: int = 1
) -> Population:
    """Return outputs with these sets of flags (places in `FLAG_SETS`) and these confidences."""
    rng = np.random.default_rng(seed)
    n = len(flags)
    known = rng.random(n) if confidence is None else np.array(confidence, float)
    ids = np.arange(1, n + 1)
    return Population(
        ids,
        ids,
        rng.integers(0, 2**63, n, np.uint64),
        known,
        np.array(flags, np.int32),
        FLAG_SETS,
        np.ones(n, np.int64),
    )
