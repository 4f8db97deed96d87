"""The share of good outputs, with an interval, from a stratified sample of judgements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from docmill.features.reviewing.judgements import Judged, Verdict
from docmill.features.reviewing.population import Population
from docmill.storage.steps.conditions import flag_name, order_flags

LEVEL = 0.95  # of the intervals


@dataclass(frozen=True)
class Share:
    """The estimated share of good outputs in a group, with its interval; None if none was judged."""

    group: str
    outputs: int
    judged: int
    good: int
    share: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ReviewSummary:
    """The state of a review. `judged` counts all good and bad verdicts, `counted` those in the estimate."""

    outputs: int
    judged: int
    counted: int
    skipped: int
    shares: tuple[Share, ...]


def estimate_share(group: str, strata: Sequence[tuple[int, int, int]]) -> Share:
    """Estimate the share of good outputs from judgements in strata, with an interval.

    ``strata`` has for each stratum the numbers of outputs, of judged outputs, and of judged outputs that are good.
    The estimate weights each stratum's share by its number of outputs (Horvitz and Thompson); strata without a
    judgement are assumed to be like the others. The interval is that of Clopper and Pearson for the effective sample
    size, after Korn and Graubard ("Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data", Survey Methodology 24, 1998). The variance has the correction for finite
    populations; in each stratum one good and one bad output are added for it (Agresti and Coull, 1998), since strata
    without a bad output would seem to have none.
    """
    numbers = np.array(strata, int).reshape(-1, 3)
    outputs, judged, good = numbers.sum(axis=0).tolist()
    if not judged:
        return Share(group, outputs, 0, 0)
    n_of, n, x = numbers[numbers[:, 1] > 0].T.astype(float)
    weights = n_of / n_of.sum()
    share = float((weights * x / n).sum())
    smoothed = (x + 1) / (n + 2)
    variance = float((weights**2 * (1 - n / n_of) * smoothed * (1 - smoothed) / n).sum())
    mean = float((weights * smoothed).sum())
    if n_of.sum() < outputs:  # nobody judged the rest
        variance = max(variance, mean * (1 - mean) / judged)
    if variance == 0:
        return Share(group, outputs, judged, good, share, share, share)
    low, high = estimate_interval(share, mean * (1 - mean) / variance)
    return Share(group, outputs, judged, good, share, low, high)


def estimate_interval(share: float, n: float) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share in a sample of `n`, which need not be a whole number."""
    from scipy.special import betaincinv

    x, tail = share * n, (1 - LEVEL) / 2
    low = 0.0 if x <= 0 else float(betaincinv(x, n - x + 1, tail))
    high = 1.0 if x >= n else float(betaincinv(x + 1, n - x, 1 - tail))
    return low, high


def summarize(population: Population, strata: Sequence[Rows], judged: Mapping[int, Judged]) -> ReviewSummary:
    """Return the shares of good outputs: of all, by doubt, and of each flag."""
    here = [judged[content] for content in population.contents[population.rows_of([*judged])].tolist()]
    verdicts = {judgement.content_id: judgement.verdict for judgement in here}
    samples = [cut_at_unseen(rows, population.contents, verdicts) for rows in strata]
    drawn = np.concatenate([np.empty(0, np.int64), *samples])
    good = np.zeros(len(population), bool)
    counted = np.zeros(len(population), bool)
    for row in drawn.tolist():
        verdict = verdicts[int(population.contents[row])]
        counted[row] = verdict is not Verdict.SKIPPED
        good[row] = verdict is Verdict.GOOD
    shares = tuple(
        estimate_share(group, [_count_verdicts(rows[inside[rows]], counted, good) for rows in strata])
        for group, inside in _groups(population)
    )
    skipped = sum(judgement.verdict is Verdict.SKIPPED for judgement in here)
    return ReviewSummary(len(population), len(here) - skipped, int(counted.sum()), skipped, shares)


def _count_verdicts(rows: Rows, counted: np.ndarray, good: np.ndarray) -> tuple[int, int, int]:
    return len(rows), int(counted[rows].sum()), int(good[rows].sum())


def _groups(population: Population) -> Iterator[tuple[str, np.ndarray]]:
    """Yield groups of outputs with their names: all, without and with doubtful flags, and each flag."""
    yield "all", np.ones(len(population), bool)
    yield "not doubtful", ~population.doubtful
    yield "doubtful", population.doubtful
    of_sets = np.bincount(population.flags, minlength=len(population.flag_sets))
    names = [{flag_name(flag) for flag in flags} for flags in population.flag_sets]
    by_flag: dict[str, int] = {}
    for flags, n in zip(names, of_sets.tolist(), strict=True):
        for flag in flags:
            by_flag[flag] = by_flag.get(flag, 0) + n
    for flag in order_flags(by_flag):
        yield flag, np.array([flag in flags for flags in names], bool)[population.flags]


Rows = npt.NDArray[np.int64]

FEWEST = 30  # outputs with a confidence that are divided into bands
DOUBTED = 2.0  # weight of a stratum of doubtful outputs in the allocation; others have 1


def stratify(population: Population) -> list[Rows]:
    """Divide outputs by their doubtful flags, and each part into thirds by confidence.

    A stratum has the rows of its outputs in the order in which they are drawn. A part with fewer than `FEWEST` known
    confidences is one stratum. Outputs without a confidence are a stratum of their own. No stratum is empty.
    """
    strata = []
    for part in (population.doubtful, ~population.doubtful):
        rows = np.flatnonzero(part)
        for of_band in _bands(population.confidence[rows]):
            chosen = rows[of_band]
            if len(chosen):
                strata.append(chosen[np.argsort(population.ranks[chosen], kind="stable")])
    return strata


def _bands(confidence: npt.NDArray[np.float64]) -> list[npt.NDArray[np.bool_]]:
    """Return masks of the outputs in each third by confidence, then of the outputs without a confidence."""
    known = ~np.isnan(confidence)
    if known.sum() < FEWEST:
        return [np.ones(len(confidence), bool)]
    bounds = np.quantile(confidence[known], [1 / 3, 2 / 3])
    third = np.searchsorted(bounds, confidence, side="left")
    return [*(known & (third == number) for number in range(3)), ~known]


def allocate(population: Population, strata: Sequence[Rows], size: int) -> list[int]:
    """Return the number of outputs to draw from each stratum, `size` in all.

    A stratum's share is proportional to the square root of its size, and twice that for doubtful outputs: the power
    allocation of Bankier ("Power allocations", The American Statistician 42, 1988), so that rare flags are seen.
    """
    sizes = np.array([len(rows) for rows in strata], float)
    size = int(min(size, sizes.sum()))
    weights = np.sqrt(sizes) * np.array([DOUBTED if population.doubtful[rows[0]] else 1.0 for rows in strata])
    numbers, open_ = np.zeros(len(strata)), np.ones(len(strata), bool)
    while open_.any():
        left = size - sizes[~open_].sum()
        numbers[open_] = left * weights[open_] / weights[open_].sum()
        full = open_ & (numbers > sizes)
        if not full.any():
            break
        numbers[full] = sizes[full]
        open_ &= ~full
    return _round(numbers, sizes, size)


def _round(numbers: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], size: int) -> list[int]:
    """Round the numbers by the largest remainders, so that they sum to `size`; none to 0 if there is room."""
    whole = np.floor(numbers).astype(int)
    if size >= len(numbers):
        whole = np.maximum(whole, 1)
    while whole.sum() < size:
        room = np.where(whole < sizes, numbers - whole, -np.inf)
        whole[int(np.argmax(room))] += 1
    while whole.sum() > size:
        surplus = np.where(whole > 1, whole - numbers, -np.inf)
        whole[int(np.argmax(surplus))] -= 1
    return [int(n) for n in whole]


def draw_sample(population: Population, strata: Sequence[Rows], size: int) -> Rows:
    """Return the rows of a sample, in the order to judge them.

    The strata alternate, so that the beginning of the sample is a smaller sample of the same kind.
    """
    drawn, places = [np.empty(0, np.int64)], [np.empty(0)]
    for rows, n in zip(strata, allocate(population, strata, size), strict=True):
        drawn.append(rows[:n])
        places.append((np.arange(n) + 0.5) / max(n, 1))
    return np.concatenate(drawn)[np.argsort(np.concatenate(places), kind="stable")]


def cut_at_unseen(rows: Rows, contents: Rows, met: Collection[int]) -> Rows:
    """Return the rows of a stratum before the first output that no reviewer has seen.

    These rows are a random sample of the stratum, whatever sessions, jobs or seeds the judgements come from. Later
    judgements may come from a smaller corpus, and would distort the estimate.
    """
    n = next((place for place, row in enumerate(rows) if int(contents[row]) not in met), len(rows))
    return rows[:n]
