"""Strata of outputs by doubtful flags and confidence, and the sample that is drawn from each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from docmill.storage.core.flags import doubtful
from docmill.storage.reviews.population import Population

Rows = npt.NDArray[np.int64]

BANDS = ("low", "middle", "high")
FEWEST = 30  # outputs with a confidence that are divided into bands
DOUBTED = 2.0  # weight of a stratum of doubtful outputs in the allocation; others have 1


@dataclass(frozen=True)
class Stratum:
    """Rows of a population, in the order in which they are drawn."""

    name: str
    doubtful: bool
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)


def strata_of(population: Population) -> list[Stratum]:
    """Divide outputs by their doubtful flags, and each part into thirds by confidence.

    A part with less than `FEWEST` known confidences is one stratum; outputs without a confidence are one of their
    own. No stratum is empty.
    """
    doubted = np.array([doubtful(flags) for flags in population.flag_sets], bool)[population.flags]
    found = []
    for is_doubtful, name in ((True, "doubtful"), (False, "not doubtful")):
        rows = np.flatnonzero(doubted == is_doubtful)
        for band, of_band in _bands(population.confidence[rows]).items():
            chosen = rows[of_band]
            if len(chosen):
                drawn = chosen[np.argsort(population.ranks[chosen], kind="stable")]
                found.append(Stratum(f"{name}{band}", is_doubtful, drawn))
    return found


def _bands(confidence: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.bool_]]:
    known = ~np.isnan(confidence)
    if known.sum() < FEWEST:
        return {"": np.ones(len(confidence), bool)}
    bounds = np.quantile(confidence[known], [1 / 3, 2 / 3])
    third = np.searchsorted(bounds, confidence, side="left")
    of_band = {f", {band} confidence": known & (third == number) for number, band in enumerate(BANDS)}
    return {**of_band, ", confidence unknown": ~known}


def allocation(strata: Sequence[Stratum], size: int) -> list[int]:
    """Return the number of outputs to draw from each stratum, `size` in all.

    A stratum's share is proportional to the square root of its size, and twice that for doubtful outputs: the power
    allocation of Bankier ("Power allocations", The American Statistician 42, 1988), so that rare flags are seen.
    """
    sizes = np.array([len(stratum) for stratum in strata], float)
    size = int(min(size, sizes.sum()))
    weights = np.sqrt(sizes) * np.array([DOUBTED if stratum.doubtful else 1.0 for stratum in strata])
    wanted, open_ = np.zeros(len(strata)), np.ones(len(strata), bool)
    while open_.any():
        left = size - sizes[~open_].sum()
        wanted[open_] = left * weights[open_] / weights[open_].sum()
        full = open_ & (wanted > sizes)
        if not full.any():
            break
        wanted[full] = sizes[full]
        open_ &= ~full
    return _rounded(wanted, sizes, size)


def _rounded(wanted: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], size: int) -> list[int]:
    """Return whole numbers with the same sum by the largest remainders; one at least where there is room."""
    whole = np.floor(wanted).astype(int)
    if size >= len(wanted):
        whole = np.maximum(whole, 1)
    while whole.sum() < size:
        room = np.where(whole < sizes, wanted - whole, -np.inf)
        whole[int(np.argmax(room))] += 1
    while whole.sum() > size:
        surplus = np.where(whole > 1, whole - wanted, -np.inf)
        whole[int(np.argmax(surplus))] -= 1
    return [int(n) for n in whole]


def sample(strata: Sequence[Stratum], size: int) -> Rows:
    """Return the rows of a sample, in the order to judge them.

    The strata alternate, so that the beginning of the sample is a smaller sample of the same kind.
    """
    rows, places = [np.empty(0, np.int64)], [np.empty(0)]
    for stratum, n in zip(strata, allocation(strata, size), strict=True):
        rows.append(stratum.rows[:n])
        places.append((np.arange(n) + 0.5) / max(n, 1))
    return np.concatenate(rows)[np.argsort(np.concatenate(places), kind="stable")]


def seen(stratum: Stratum, contents: Rows, met: Collection[int]) -> Rows:
    """Return the rows of a stratum that were drawn first and that reviewers have met, up to the first they have not.

    In a stratum these are a random sample, however many sessions, jobs or seeds the judgements come from. Judgements
    behind an output that nobody has met may be of a smaller corpus, and would distort the estimate.
    """
    n = next(
        (place for place, row in enumerate(stratum.rows) if int(contents[row]) not in met),
        len(stratum),
    )
    return stratum.rows[:n]
