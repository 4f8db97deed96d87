"""The share of good outputs, with an interval, from a stratified sample of judgements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from docmill.storage.core.flags import doubtful, name_of, ordered
from docmill.storage.reviews.judgements import Judged, Verdict
from docmill.storage.reviews.population import Population
from docmill.worker.reviewing.strata import Rows, Stratum, seen

LEVEL = 0.95  # of the intervals


@dataclass(frozen=True)
class Cell:
    """Numbers of a stratum: its outputs, the judged outputs, and the good ones among these."""

    outputs: int
    judged: int
    good: int


@dataclass(frozen=True)
class Share:
    """The estimated share of good outputs in a group, with its interval. All three are None if none was judged."""

    group: str
    outputs: int
    judged: int
    good: int
    share: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Summary:
    """The state of a review. `judged` counts all good and bad verdicts, `counted` those in the estimate."""

    outputs: int
    judged: int
    counted: int
    skipped: int
    shares: tuple[Share, ...]


def share_good(group: str, cells: Collection[Cell]) -> Share:
    """Estimate the share of good outputs from judgements in strata, with an interval.

    The estimate weights each stratum's share by its number of outputs (Horvitz and Thompson); strata without a
    judgement are assumed to be like the others. The interval is that of Clopper and Pearson for the effective sample
    size, after Korn and Graubard ("Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data", Survey Methodology 24, 1998). The variance has the correction for finite
    populations; in each stratum one good and one bad output are added for it (Agresti and Coull, 1998), since strata
    without a bad output would seem to have none.
    """
    outputs, judged, good = (sum(getattr(cell, name) for cell in cells) for name in ("outputs", "judged", "good"))
    n_of, n, x = (
        np.array([getattr(cell, name) for cell in cells if cell.judged], float)
        for name in ("outputs", "judged", "good")
    )
    if not judged:
        return Share(group, outputs, 0, 0)
    weights = n_of / n_of.sum()
    share = float((weights * x / n).sum())
    smoothed = (x + 1) / (n + 2)
    variance = float((weights**2 * (1 - n / n_of) * smoothed * (1 - smoothed) / n).sum())
    mean = float((weights * smoothed).sum())
    if n_of.sum() < outputs:  # nobody judged the rest
        variance = max(variance, mean * (1 - mean) / judged)
    if variance == 0:
        return Share(group, outputs, judged, good, share, share, share)
    low, high = interval(share, mean * (1 - mean) / variance)
    return Share(group, outputs, judged, good, share, low, high)


def interval(share: float, n: float) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share in a sample of `n`, which need not be a whole number."""
    from scipy.special import betaincinv

    x, tail = share * n, (1 - LEVEL) / 2
    low = 0.0 if x <= 0 else float(betaincinv(x, n - x + 1, tail))
    high = 1.0 if x >= n else float(betaincinv(x + 1, n - x, 1 - tail))
    return low, high


def summary(population: Population, strata: Sequence[Stratum], judged: Mapping[int, Judged]) -> Summary:
    """Return the shares of good outputs: of all, by doubt, and of each flag."""
    here = [judged[content] for content in population.contents[population.rows_of([*judged])].tolist()]
    verdicts = {one.content_id: one.verdict for one in here}
    samples = [seen(stratum, population.contents, verdicts) for stratum in strata]
    drawn = np.concatenate([np.empty(0, np.int64), *samples])
    good = np.zeros(len(population), bool)
    counted = np.zeros(len(population), bool)
    for row in drawn.tolist():
        verdict = verdicts[int(population.contents[row])]
        counted[row] = verdict is not Verdict.SKIPPED
        good[row] = verdict is Verdict.GOOD
    shares = tuple(
        share_good(group, [_cell(stratum.rows, inside, counted, good) for stratum in strata])
        for group, inside in _groups(population)
    )
    skipped = sum(one.verdict is Verdict.SKIPPED for one in here)
    return Summary(len(population), len(here) - skipped, int(counted.sum()), skipped, shares)


def _cell(rows: Rows, inside: np.ndarray, counted: np.ndarray, good: np.ndarray) -> Cell:
    mine = rows[inside[rows]]
    return Cell(len(mine), int(counted[mine].sum()), int(good[mine].sum()))


def _groups(population: Population) -> Iterator[tuple[str, np.ndarray]]:
    """Yield groups of outputs with their names: all, without and with doubtful flags, and each flag."""
    yield "all", np.ones(len(population), bool)
    doubted = np.array([doubtful(flags) for flags in population.flag_sets], bool)[population.flags]
    yield "not doubtful", ~doubted
    yield "doubtful", doubted
    of_sets = np.bincount(population.flags, minlength=len(population.flag_sets))
    names = [{name_of(flag) for flag in flags} for flags in population.flag_sets]
    by_flag: dict[str, int] = {}
    for flags, n in zip(names, of_sets.tolist(), strict=True):
        for flag in flags:
            by_flag[flag] = by_flag.get(flag, 0) + n
    for flag in ordered(by_flag):
        yield flag, np.array([flag in flags for flags in names], bool)[population.flags]
