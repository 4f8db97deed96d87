"""Pairs of texts that share a band of their signatures, and may be near duplicates by their sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from docmill.storage.duplicates.components import Components, Ids
from docmill.storage.duplicates.signatures import Bands

NEIGHBOURS = 100  # texts that a text is compared with in one band: those nearest in size


@dataclass(frozen=True)
class Signed:
    """Texts by their places: the hashes of their bands, the sizes of their sets, and True for those to be compared.

    A text that is not `fresh` was compared with the other such texts before.
    """

    bands: Bands
    sizes: Ids
    fresh: npt.NDArray[np.bool_]


def candidates(signed: Signed, threshold: float, components: Components, band: int) -> Iterator[tuple[Ids, Ids]]:
    """Yield pairs of places that share a band's hash and no hash of an earlier band. Arrays may be empty.

    Texts with one hash are taken in the order of their sizes, first those next to each other. So the members of a
    cluster are joined early, and the pairs between them are not yielded. The caller joins what it finds between two
    yields. Sets whose sizes differ too much for the threshold are left out.
    """
    keys = signed.bands[:, band]
    order = np.lexsort((signed.sizes, keys)).astype(np.int64)
    order = order[signed.sizes[order] > 0]
    starts = np.arange(len(order))
    for lag in range(1, NEIGHBOURS + 1):
        starts = starts[starts + lag < len(order)]
        starts = starts[keys[order[starts]] == keys[order[starts + lag]]]
        if not len(starts):
            return
        ones, others = order[starts], order[starts + lag]
        wanted = signed.fresh[ones] | signed.fresh[others]
        wanted &= signed.sizes[ones] >= threshold * signed.sizes[others]
        ones, others = ones[wanted], others[wanted]
        if band:
            met = (signed.bands[ones, :band] == signed.bands[others, :band]).any(axis=1)
            ones, others = ones[~met], others[~met]
        apart = components.are_apart(ones, others)
        yield ones[apart], others[apart]
