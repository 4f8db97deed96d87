"""Doubts: which results are computed again, and which of two results is the better one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from docmill.storage.core.doubts import Doubt, is_better
from docmill.storage.core.number_bounds import Bound
from docmill.storage.core.outcomes import DOUBTFUL
from docmill.storage.core.risk import Feature, FittedRisk, RiskModel
from docmill.storage.errors import DoubtInvalid


def result(*flags: str, status: str = "done", **numbers: float | None) -> Any:
    known = {"confidence": None, "mean_logprob": None, "least_logprob": None} | numbers
    return SimpleNamespace(status=status, flags=list(flags), **known)


def test_the_default_doubts_results_with_any_doubtful_flag() -> None:
    assert Doubt().flags == DOUBTFUL
    assert Doubt().holds(result("windowed", "repetition"))
    assert not Doubt().holds(result("windowed", confidence=0.0))
    assert str(Doubt()) == "any doubtful flag"


@pytest.mark.parametrize(
    ("written", "doubted", "trusted"),
    [
        ("confidence<0.4", result(confidence=0.39), result("empty", confidence=0.4)),
        ("confidence > 0.4", result(confidence=0.41), result(confidence=0.4)),
        ("mean_logprob<-1.5", result(mean_logprob=-1.51), result(mean_logprob=-1.5)),
        ("least_logprob<-4", result(least_logprob=-5.0), result()),
        ("empty, confidence<0.4", result("empty", confidence=0.9), result("repetition", confidence=0.9)),
        ("doubtful,confidence<0.4", result("repetition"), result("windowed", confidence=0.4)),
        ("language:fr", result("language:fr"), result("language:es")),
    ],
)
def test_a_result_is_doubted_for_one_of_the_flags_or_bounds(written: str, doubted: Any, trusted: Any) -> None:
    doubt = Doubt.parse(written.split(","))
    assert doubt.holds(doubted)
    assert not doubt.holds(trusted)
    assert Doubt.stored(doubt.to_json()) == doubt


def test_what_stands_twice_or_in_another_order_is_the_same_doubt() -> None:
    parts = ["confidence<0.4", "empty", "mean_logprob<-2", "confidence<0.40"]
    doubt = Doubt.parse(parts)
    assert doubt == Doubt.parse(reversed(parts))
    assert doubt.bounds == (Bound("confidence", True, 0.4), Bound("mean_logprob", True, -2.0))
    assert str(doubt) == "empty or confidence<0.4 or mean_logprob<-2"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("confidence<40", "'confidence<40': confidence is from 0 to 1"),
        ("confidence<nan", "confidence is from 0 to 1"),
        ("mean_logprob<0.5", "mean_logprob is at most 0"),
        ("confidence<low", "'confidence<low' has no number; write for example confidence<0.4"),
        ("sureness<0.4", "'sureness<0.4' is no bound of confidence, mean_logprob, least_logprob"),
        ("confidence<=0.4", "has no number"),
        ("confidence", "'confidence' has no bound; write for example confidence<0.4"),
        ("risk", "'risk' has no bound; write for example risk>0.3"),
        ("risk>30", "risk is from 0 to 1"),
        ("risk<0.3", "'risk<0.3' asks for the outputs that are least at risk; write for example risk>0.3"),
        ("sure", "no flag is called 'sure'"),
        ("", "no flag is called ''"),
    ],
)
def test_a_wrong_doubt_is_refused(written: str, said: str) -> None:
    with pytest.raises(DoubtInvalid) as caught:
        Doubt.parse(written.split(","))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second", "better"),
    [
        (result("repetition"), result(), True),
        (result("repetition"), result("empty"), True),  # as many
        (result(), result("windowed", "language:fr"), True),  # remarks are no doubts
        (result("repetition"), result("empty", "repetition"), False),
        (result(), result("empty"), False),
        (result("repetition"), result(status="failed"), False),
        (result("repetition"), result(status="skipped"), False),
        (result(status="failed"), result("repetition"), True),
        (result(status="failed"), result(status="failed"), False),
    ],
)
def test_the_second_result_is_better_if_it_is_done_and_no_more_doubtful(
    first: Any, second: Any, better: bool
) -> None:
    assert is_better(second, first) is better


def test_a_failure_is_doubted_only_if_failures_are_named() -> None:
    failed = result("repetition", status="failed")
    assert Doubt.parse(["failed"]) == Doubt(frozenset(), failed=True)
    assert Doubt.parse(["doubtful", "failed"]).holds(failed)
    assert not Doubt.parse(["doubtful"]).holds(failed)
    assert not Doubt.parse(["failed"]).holds(result("repetition"))
    assert not Doubt.parse(["failed"]).holds(result(status="skipped"))
    assert Doubt.stored(Doubt.parse(["failed"]).to_json()) == Doubt.parse(["failed"])
    assert str(Doubt.parse(["failed", "empty"])) == "empty or failed"
    assert Doubt().to_json() == {"flags": ["doubtful"], "bounds": []}  # as it was before there was `failed`


def test_a_risk_is_compared_by_its_model_and_stored_with_its_version() -> None:
    model = RiskModel(0.0, (Feature("tokens_out_per_in", 1.0, 1.0, 1.0),))  # above 0.5 if the output is longer
    doubt = Doubt.parse(["risk>0.5"])
    assert doubt.needs_risk
    assert doubt == doubt.by(FittedRisk(3, model))
    stored = Doubt.stored(doubt.by(FittedRisk(3, model)).to_json())
    assert stored.risk == FittedRisk(3, model)
    long, short = (result(tokens_in=10, tokens_out=n) for n in (11, 9))
    assert stored.holds(long)
    assert not stored.holds(short)
    bounds = (Bound("risk", True, 0.5), Bound("risk", False, 1.0), Bound("risk", False, 0.0))
    below, none, all_ = (Doubt(frozenset(), (one,)).by(FittedRisk(3, model)) for one in bounds)
    assert [one.holds(long) for one in (below, none, all_)] == [False, False, True]
