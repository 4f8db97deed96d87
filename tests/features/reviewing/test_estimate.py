"""Samples of strata, and estimates of which the interval holds the true share as often as it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from docmill.features.reviewing.estimate import (
    Share,
    allocate,
    cut_at_unseen,
    draw_sample,
    estimate_share,
    stratify,
    summarize,
)
from docmill.features.reviewing.judgements import Judged, Verdict
from docmill.features.reviewing.population import Population

DRAWS = 300
FLAG_SETS = ((), ("repetition",), ("numbers_changed", "repetition"), ("windowed",))


def population(flags: Sequence[int], confidence: Sequence[float | None] | None = None) -> Population:
    """Return outputs with these sets of flags (places in `FLAG_SETS`) and these confidences."""
    rng = np.random.default_rng(1)
    n = len(flags)
    known = rng.random(n) if confidence is None else np.array(confidence, float)
    ids, ranks = np.arange(1, n + 1), rng.integers(0, 2**63, n, np.uint64)
    return Population(ids, ids, ranks, known, np.array(flags, np.int32), FLAG_SETS, np.ones(n, np.int64))


@pytest.mark.parametrize(
    ("outputs", "shares", "drawn"),
    [
        ([300, 300, 300, 40, 30, 30], [0.7, 0.85, 0.95, 0.2, 0.4, 0.6], [12, 12, 12, 9, 7, 7]),
        ([3_000, 3_000, 3_000, 30, 20, 30], [0.97, 0.99, 0.995, 0.5, 0.6, 0.7], [6, 6, 6, 1, 1, 1]),
        ([600, 500, 400, 700, 500, 300], [0.5, 0.5, 0.5, 0.1, 0.1, 0.2], [12, 11, 10, 26, 22, 19]),
        ([9_000, 9_000, 9_000, 9, 4, 2], [0.03, 0.02, 0.01, 0.5, 0.5, 0.5], [31, 31, 31, 2, 1, 1]),
        ([1_000], [0.95], [20]),
    ],
)
def test_the_interval_holds_the_true_share_in_95_of_100_samples(
    outputs: list[int], shares: list[float], drawn: list[int]
) -> None:
    rng = np.random.default_rng(5)
    there = np.array(outputs)
    good = np.round(there * shares).astype(int)
    truth = good.sum() / there.sum()
    estimates: list[Share] = []
    for _ in range(DRAWS):
        counted = rng.hypergeometric(good, there - good, drawn).tolist()
        estimates.append(estimate_share("all", [*zip(outputs, drawn, counted, strict=True)]))
    estimated, low, high = np.array([(share.share, share.low, share.high) for share in estimates], float).T
    assert ((low <= truth) & (truth <= high)).sum() >= 0.95 * DRAWS
    mean, deviation = float(estimated.mean()), float(estimated.std())
    assert abs(mean - truth) < 4 * deviation / DRAWS**0.5


def test_strata_count_by_their_outputs_and_not_by_their_judgements() -> None:
    share = estimate_share("all", [(900, 10, 9), (100, 90, 0)])
    assert (share.outputs, share.judged, share.good) == (1_000, 100, 9)
    assert share.share == pytest.approx(0.81)


def test_a_group_that_is_judged_whole_is_known_exactly_and_one_that_is_not_judged_is_unknown() -> None:
    whole = estimate_share("repetition", [(3, 3, 2), (1, 1, 0)])
    assert (whole.share, whole.low, whole.high) == (0.5, 0.5, 0.5)
    assert estimate_share("empty", [(7, 0, 0)]) == Share("empty", 7, 0, 0)
    part = estimate_share("part", [(3, 3, 3), (7, 0, 0)])
    assert part.share == 1.0
    assert part.low is not None
    assert part.low < 0.6


def test_the_summary_has_all_outputs_both_sides_of_doubt_and_each_flag() -> None:
    outputs = population([0] * 40 + [1] * 30 + [2] * 10 + [3] * 20)
    strata = stratify(outputs)
    judged = {}
    for place, row in enumerate(draw_sample(outputs, strata, 50).tolist()):
        content = int(outputs.contents[row])
        verdict = Verdict.GOOD if outputs.flags[row] in {0, 3} else Verdict.BAD
        judged[content] = Judged(content, Verdict.SKIPPED if place == 5 else verdict, "ann", 0)
    judged[10**9] = Judged(10**9, Verdict.BAD, "ann", 0)  # of another job
    total = summarize(outputs, strata, judged)
    assert (total.outputs, total.judged, total.counted, total.skipped) == (100, 49, 49, 1)
    by_group = {share.group: share for share in total.shares}
    assert [*by_group] == ["all", "not doubtful", "doubtful", "repetition", "numbers_changed", "windowed"]
    assert {group: share.outputs for group, share in by_group.items()} == {
        "all": 100,
        "not doubtful": 60,
        "doubtful": 40,
        "repetition": 40,
        "numbers_changed": 10,
        "windowed": 20,
    }
    assert (by_group["not doubtful"].share, by_group["doubtful"].share) == (1.0, 0.0)
    assert by_group["all"].share == pytest.approx(0.6)


def test_strata_are_doubtful_or_not_by_thirds_of_the_confidence() -> None:
    outputs = population([0] * 300 + [1] * 60 + [3] * 90)
    strata = stratify(outputs)
    assert [{*outputs.doubtful[rows].tolist()} for rows in strata] == [{True}] * 3 + [{False}] * 3
    assert [len(rows) for rows in strata] == [20] * 3 + [130] * 3
    assert sorted(np.concatenate(strata)) == [*range(450)]


def test_doubtful_outputs_are_drawn_more_often_and_no_stratum_is_left_out_or_exceeded() -> None:
    outputs = population([0] * 9_000 + [1] * 60 + [2] * 3, [None] * 9_063)
    strata = stratify(outputs)
    n_doubtful, n_others = allocate(outputs, strata, 100)
    assert n_doubtful + n_others == 100
    assert n_doubtful / 63 > 10 * n_others / 9_000
    alike = population([0] * 300 + [1] * 300, [None] * 600)
    assert allocate(alike, stratify(alike), 99) == [66, 33]
    for size in (1, 2, 3, 7, 50, 500, 9_062, 9_063, 20_000):
        drawn = allocate(outputs, strata, size)
        assert sum(drawn) == min(size, 9_063)
        assert all(0 <= n <= len(stratum) for n, stratum in zip(drawn, strata, strict=True))
        assert size < 2 or min(drawn) > 0


def test_the_beginning_of_a_sample_is_a_sample_and_a_larger_one_goes_on() -> None:
    outputs = population([0] * 600 + [1] * 300)
    strata = stratify(outputs)
    whole = draw_sample(outputs, strata, 120).tolist()
    assert len({*whole}) == 120
    of = {int(row): place for place, rows in enumerate(strata) for row in rows}
    planned = Counter(of[row] for row in whole)
    begun = Counter(of[row] for row in whole[:40])
    assert all(abs(begun[place] - n / 3) <= 1 for place, n in planned.items())
    assert {*whole} <= {*draw_sample(outputs, strata, 240).tolist()}


def test_only_judgements_before_the_first_output_that_nobody_met_count() -> None:
    outputs = population([0] * 20, [0.5] * 20)
    (rows,) = stratify(outputs)
    drawn = [int(outputs.contents[row]) for row in rows]
    met = {*drawn[:7], *drawn[9:12]}
    assert [int(outputs.contents[row]) for row in cut_at_unseen(rows, outputs.contents, met)] == drawn[:7]
    assert len(cut_at_unseen(rows, outputs.contents, drawn)) == 20
