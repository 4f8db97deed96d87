"""Samples are drawn from strata of flags and confidence, more from the doubtful ones, and their beginnings, too."""

from __future__ import annotations

from collections import Counter

import numpy as np

from docmill.features.reviewing.estimate import allocation, sample, seen, strata_of
from tests.features.reviewing.populations import population


def test_strata_are_doubtful_or_not_by_thirds_of_the_confidence() -> None:
    strata = strata_of(population([0] * 300 + [1] * 60 + [3] * 90))
    assert [(one.name, len(one)) for one in strata] == [
        ("doubtful, low confidence", 20),
        ("doubtful, middle confidence", 20),
        ("doubtful, high confidence", 20),
        ("not doubtful, low confidence", 130),
        ("not doubtful, middle confidence", 130),
        ("not doubtful, high confidence", 130),
    ]
    assert sorted(np.concatenate([one.rows for one in strata])) == [*range(450)]


def test_doubtful_outputs_are_drawn_more_often_and_no_stratum_is_left_out_or_exceeded() -> None:
    strata = strata_of(population([0] * 9_000 + [1] * 60 + [2] * 3, [None] * 9_063))
    n_doubtful, n_others = allocation(strata, 100)
    assert n_doubtful + n_others == 100
    assert n_doubtful / 63 > 10 * n_others / 9_000
    alike = strata_of(population([0] * 300 + [1] * 300, [None] * 600))
    assert allocation(alike, 99) == [66, 33]
    for size in (1, 2, 3, 7, 50, 500, 9_062, 9_063, 20_000):
        drawn = allocation(strata, size)
        assert sum(drawn) == min(size, 9_063)
        assert all(0 <= n <= len(one) for n, one in zip(drawn, strata, strict=True))
        assert size < 2 or min(drawn) > 0


def test_the_beginning_of_a_sample_is_a_sample_and_a_larger_one_goes_on() -> None:
    strata = strata_of(population([0] * 600 + [1] * 300))
    whole = sample(strata, 120).tolist()
    assert len({*whole}) == 120
    of = {int(row): one.name for one in strata for row in one.rows}
    planned = Counter(of[row] for row in whole)
    begun = Counter(of[row] for row in whole[:40])
    assert all(abs(begun[name] - n / 3) <= 1 for name, n in planned.items())
    assert {*whole} <= {*sample(strata, 240).tolist()}


def test_only_judgements_before_the_first_output_that_nobody_met_count() -> None:
    found = population([0] * 20, [0.5] * 20)
    (stratum,) = strata_of(found)
    drawn = [int(found.contents[row]) for row in stratum.rows]
    met = {*drawn[:7], *drawn[9:12]}
    assert [int(found.contents[row]) for row in seen(stratum, found.contents, met)] == drawn[:7]
    assert len(seen(stratum, found.contents, drawn)) == 20
