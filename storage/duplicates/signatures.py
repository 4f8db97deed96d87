"""MinHash signatures in bands, by the library rensa: texts that share a band's hash are candidates.

Locality-sensitive hashing as in Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, chapter 3.4. Of `n_bands`
bands of `n_rows` rows each, two texts of similarity s share at least one with the probability
1 - (1 - s^n_rows)^n_bands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson

from docmill.storage.duplicates.methods import ByText

Bands = npt.NDArray[np.uint32]  # (texts, bands)

PERMUTATIONS = 128
LEAST_PROBABILITY = 0.99  # of a pair at the threshold to become a candidate
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio (Fibonacci hashing, Knuth)
_SHIFT = np.uint64(32)


@dataclass(frozen=True)
class Layout:
    """The division of a signature into bands of rows."""

    n_bands: int
    n_rows: int

    def probability(self, similarity: float) -> float:
        """Return the probability that a pair of this similarity shares a band."""
        return float(1 - (1 - similarity**self.n_rows) ** self.n_bands)


def layout_for(threshold: float) -> Layout:
    """Return the layout with the longest bands that finds pairs at the threshold with a probability of 0.99.

    Longer bands propose fewer pairs below the threshold. For low thresholds it has the shortest bands.
    """
    layouts = [Layout(PERMUTATIONS // n_rows, n_rows) for n_rows in range(16, 0, -1)]
    return next((one for one in layouts if one.probability(threshold) >= LEAST_PROBABILITY), layouts[-1])


def recipe_of(method: ByText) -> int:
    """Return a number for the options that signatures depend on, and for the algorithm of the library."""
    import rensa

    layout = layout_for(method.threshold)
    shingling = method.shingling
    parts = [
        *(int(rensa.RMinHash.ALGORITHM_VERSION), method.seed, shingling.unit, shingling.size),
        *(layout.n_bands, layout.n_rows),
    ]
    return int.from_bytes(hashlib.sha256(orjson.dumps(parts)).digest()[:6], "little")


def bands_of(shingles: Sequence[Set[str]], layout: Layout, seed: int) -> Bands:
    """Return the hashes of the bands of each set of shingles. An empty set has the hashes of no other set."""
    import rensa

    n_rows = layout.n_rows
    if not shingles:
        return np.empty((0, layout.n_bands), np.uint32)
    used = layout.n_bands * n_rows
    matrix = rensa.RMinHash.digest_matrix_from_token_sets(shingles, used, seed)
    rows = np.array(matrix.to_rows(), np.uint64).reshape(len(shingles), layout.n_bands, n_rows)
    hashes = np.zeros(rows.shape[:2], np.uint64)
    for place in range(n_rows):
        hashes = (hashes ^ rows[:, :, place]) * _MULTIPLIER
        hashes ^= hashes >> _SHIFT
    return hashes.astype(np.uint32)
