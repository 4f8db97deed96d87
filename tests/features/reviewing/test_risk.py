"""A risk is fitted to judgements, with its quality on others, and not to too few or to noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from docmill.features.reviewing.risk import choose_features, fit
from docmill.worker.errors import WorkerError


def make_judged(n: int) -> list[tuple[dict[str, Any], bool]]:
    """Return results, of which flagged ones and those of low confidence are bad more often."""
    rng = np.random.default_rng(11)
    rows = []
    for _ in range(n):
        flagged, confidence = bool(rng.random() < 0.3), float(rng.random())
        risk = 0.1 + 0.4 * flagged + 0.4 * (1 - confidence)
        row = {
            "flags": ["repetition"] if flagged else [],
            "tokens_in": int(rng.integers(50, 90)),
            "tokens_out": int(rng.integers(50, 90)),
            "confidence": confidence if rng.random() < 0.9 else None,
        }
        rows.append((row, bool(rng.random() < risk)))
    return rows


def test_a_risk_tells_good_from_bad_and_is_as_high_as_the_share_of_bad_ones() -> None:
    rows = make_judged(260)
    risk = fit(rows)
    assert risk.n_good + risk.n_bad == 260
    by_name = {feature.name: feature for feature in risk.model.features}
    assert by_name["flag repetition"].coefficient > 0 > by_name["confidence"].coefficient
    assert risk.quality["brier"] < risk.quality["brier_of_share"]
    assert risk.quality["auc"] > 0.65
    shares = [third["bad"] for third in risk.quality["thirds"]]
    assert shares == sorted(shares)
    assert sum(third["judged"] for third in risk.quality["thirds"]) == 260
    mean = float(np.mean([risk.model.of(row) for row, _ in rows]))
    assert mean == pytest.approx(risk.n_bad / 260, abs=0.02)


def test_too_few_judgements_and_verdicts_that_nothing_tells_apart_give_no_risk() -> None:
    with pytest.raises(WorkerError, match=r"there are \d+ good and \d+ bad"):
        fit(make_judged(199))
    with pytest.raises(WorkerError, match="20 good and 20 bad ones"):
        fit([(row, False) for row, _ in make_judged(250)])
    alike = {"flags": [], "tokens_in": 50, "tokens_out": 50}
    with pytest.raises(WorkerError, match="hardly differ among the outputs"):
        fit([(alike, is_bad) for _, is_bad in make_judged(220)])
    with pytest.raises(WorkerError, match="do not tell the good outputs from the bad"):
        fit([(row, is_bad) for is_bad in (True, False) for row, _ in make_judged(110)])


def test_rare_flags_and_numbers_that_do_not_differ_are_no_features() -> None:
    rows = [row for row, _ in make_judged(40)]
    rows[0]["flags"] = ["empty"]
    for row in rows:
        row["tokens_out"] = row["tokens_in"]
    assert choose_features(rows) == ["flag repetition", "confidence", "tokens_in"]
