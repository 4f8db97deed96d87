"""Conditions on the flags and numbers of outputs: flags, bounds, doubts and risks."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import ColumnElement, cast, create_engine, literal, select

from docmill.storage.core.database import Database
from docmill.storage.core.schema import OutcomeRow
from docmill.storage.core.specs import DOUBTFUL
from docmill.storage.errors import StorageError
from docmill.storage.steps.choosing import doubted
from docmill.storage.steps.conditions import (
    DOUBTS,
    Bound,
    Doubt,
    Flagged,
    flag_name,
    is_better,
    list_flags,
    parse_flags,
)
from docmill.storage.steps.risk import NUMBERS, FittedRisk, RiskFeature, RiskModel


def test_every_known_flag_can_be_named_and_one_word_means_all_doubtful_flags() -> None:
    assert parse_flags(list_flags()) == frozenset(list_flags())
    assert parse_flags([DOUBTS]) == DOUBTFUL
    assert parse_flags([DOUBTS, "windowed", "language:fr"]) == DOUBTFUL | {"windowed", "language:fr"}
    assert list_flags()[: len(DOUBTFUL)] == sorted(DOUBTFUL)


@pytest.mark.parametrize("name", ["", "truncated", "Empty", "7", "doubtful,empty"])
def test_an_unknown_flag_is_refused_with_a_list_of_flags(name: str) -> None:
    with pytest.raises(StorageError, match=r"there are .*empty, empty_window, .*windowed"):
        parse_flags([name])


def test_a_flag_with_an_offset_has_the_name_without_it() -> None:
    assert [flag_name(flag) for flag in ("invalid_utf8@17", "language:fr", "empty")] == [
        "invalid_utf8",
        "language:fr",
        "empty",
    ]


def test_a_condition_is_stored_with_its_bounds_if_it_has_any() -> None:
    assert Flagged().to_json() == {"names": ["doubtful"], "lacking": False}
    assert Flagged(frozenset({"windowed", "empty"}), lacking=True).to_json() == {
        "names": ["empty", "windowed"],
        "lacking": True,
    }
    for parts in (["confidence<0.123456789"], ["empty", "mean_logprob>-1e-09", "least_logprob<-4"]):
        condition = Flagged.parse(parts, lacking=True)
        assert Flagged.stored(condition.to_json()) == condition


def test_a_stored_condition_may_name_a_flag_that_only_another_installation_knows() -> None:
    known_there = frozenset({"of_a_feature"})
    doubt = Doubt(known_there | DOUBTFUL, (Bound("confidence", True, 0.4),), failed=True)
    assert Doubt.stored({"parts": ["doubtful", "of_a_feature", "failed", "confidence<0.4"]}) == doubt
    flagged = Flagged(known_there, lacking=True)
    assert Flagged.stored({"names": ["of_a_feature"], "lacking": True}) == flagged


def result(*flags: str, status: str = "done", **numbers: float | None) -> Any:
    """Return an outcome with these flags and numbers."""
    columns = dict.fromkeys(("tokens_in", "tokens_out", "confidence", "mean_logprob", "least_logprob")) | numbers
    return SimpleNamespace(status=status, flags=list(flags), **columns)


def is_doubted(doubt: Doubt, outcome: Any, database: Database | None = None) -> bool:
    """Return True if SQL doubts an outcome."""
    columns = []
    for name, value in vars(outcome).items():
        type_ = OutcomeRow.__table__.c[name].type
        # A number that is NULL has a type, too.
        typed: ColumnElement[Any] = literal(value, type_) if name in {"status", "flags"} else cast(value, type_)
        columns.append(typed.label(name))
    engine = create_engine("sqlite://") if database is None else database.engine
    with engine.connect() as connection:
        return bool(connection.scalar(select(doubted(doubt, select(*columns).subquery()))))


@pytest.mark.parametrize(
    ("written", "uncertain", "trusted"),
    [
        ("doubtful", result("windowed", "repetition"), result("windowed", confidence=0.0)),
        ("confidence<0.4", result(confidence=0.39), result("empty", confidence=0.4)),
        ("confidence > 0.4", result(confidence=0.41), result(confidence=0.4)),
        ("mean_logprob<-1.5", result(mean_logprob=-1.51), result(mean_logprob=-1.5)),
        ("least_logprob<-4", result(least_logprob=-5.0), result()),
        ("empty, confidence<0.4", result("empty", confidence=0.9), result("repetition", confidence=0.9)),
        ("doubtful,confidence<0.4", result("repetition"), result("windowed", confidence=0.4)),
        ("language:fr", result("language:fr"), result("language:es")),
        ("assumed_cp1252", result("assumed_cp1252@17"), result("invalid_utf8@17")),
    ],
)
def test_a_result_is_doubted_for_one_of_the_flags_or_bounds(written: str, uncertain: Any, trusted: Any) -> None:
    doubt = Doubt.parse(written.split(","))
    assert is_doubted(doubt, uncertain)
    assert not is_doubted(doubt, trusted)
    assert Doubt.stored(doubt.to_json()) == doubt


def test_repeated_or_reordered_parts_are_the_same_doubt() -> None:
    parts = ["confidence<0.4", "empty", "mean_logprob<-2", "confidence<0.40"]
    doubt = Doubt.parse(parts)
    assert doubt == Doubt.parse(reversed(parts))
    assert doubt.bounds == (Bound("confidence", True, 0.4), Bound("mean_logprob", True, -2.0))
    assert str(doubt) == "empty or confidence<0.4 or mean_logprob<-2"


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("confidence<40", "'confidence<40': confidence is from 0 to 1"),
        ("mean_logprob<0.5", "mean_logprob is at most 0"),
        ("confidence<low", "'confidence<low' has no number; write for example confidence<0.4"),
        ("sureness<0.4", "'sureness<0.4' is no bound of confidence, mean_logprob, least_logprob"),
        ("confidence", "'confidence' has no bound; write for example confidence<0.4"),
        ("risk>30", "risk is from 0 to 1"),
        ("risk<0.3", "'risk<0.3' asks for the outputs that are least at risk; write for example risk>0.3"),
        ("sure", "no flag is called 'sure'"),
    ],
)
def test_a_wrong_doubt_is_refused(written: str, reason: str) -> None:
    with pytest.raises(StorageError) as caught:
        Doubt.parse(written.split(","))
    assert reason in str(caught.value)


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
def test_a_second_result_is_better_if_done_and_no_more_doubtful(first: Any, second: Any, better: bool) -> None:
    assert is_better(second, first) is better


def test_a_failure_is_doubted_only_if_failures_are_named() -> None:
    failed = result("repetition", status="failed")
    assert Doubt.parse(["failed"]) == Doubt(frozenset(), failed=True)
    assert is_doubted(Doubt.parse(["doubtful", "failed"]), failed)
    assert not is_doubted(Doubt.parse(["doubtful"]), failed)
    assert not is_doubted(Doubt.parse(["failed"]), result("repetition"))
    assert not is_doubted(Doubt.parse(["failed"]), result(status="skipped"))
    assert Doubt.stored(Doubt.parse(["failed"]).to_json()) == Doubt.parse(["failed"])
    assert str(Doubt.parse(["failed", "empty"])) == "empty or failed"
    assert Doubt() == Doubt.parse(["doubtful"])
    assert str(Doubt()) == "any doubtful flag"
    assert Doubt().to_json() == {"parts": ["doubtful"]}


def test_a_risk_is_compared_by_its_model_and_stored_with_its_version() -> None:
    model = RiskModel(0.0, (RiskFeature("tokens_out_per_in", 1.0, 1.0, 1.0),))  # above 0.5 if the output is longer
    doubt = Doubt.parse(["risk>0.5"])
    assert doubt.needs_risk
    assert doubt == replace(doubt, risk=FittedRisk(3, model))
    stored = Doubt.stored(replace(doubt, risk=FittedRisk(3, model)).to_json())
    assert stored.risk == FittedRisk(3, model)
    long, short = (result(tokens_in=10, tokens_out=n) for n in (11, 9))
    assert is_doubted(stored, long)
    assert not is_doubted(stored, short)
    bounds = (Bound("risk", True, 0.5), Bound("risk", False, 1.0), Bound("risk", False, 0.0))
    doubts = [Doubt(frozenset(), (bound,), risk=FittedRisk(3, model)) for bound in bounds]
    assert [is_doubted(doubt, long) for doubt in doubts] == [False, False, True]


MODEL = RiskModel(
    -1.0,
    (
        RiskFeature("flag repetition", 0.25, 0.5, 1.0),
        RiskFeature("confidence", 0.5, 0.1, -2.0),
        RiskFeature("tokens_out_per_in", 1.0, 0.5, 0.5),
        RiskFeature("tokens_in", 500.0, 100.0, 0.1),
    ),
)


def output(**more: Any) -> dict[str, Any]:
    """Return the features of an output of as many tokens as its input."""
    return {"flags": [], "tokens_in": 500, "tokens_out": 500, **more}


def test_a_risk_is_the_logistic_function_of_the_features_in_their_scales() -> None:
    z = -1.0 + (1 - 0.25) / 0.5 - 2.0 * (0.7 - 0.5) / 0.1 + 0.5 * (1.5 - 1.0) / 0.5 + 0.1 * (400 - 500) / 100
    risk = MODEL.of(output(flags=["windowed", "repetition"], confidence=0.7, tokens_in=400, tokens_out=600))
    assert risk == pytest.approx(1 / (1 + math.exp(-z)))
    unknown = MODEL.of(output())
    assert unknown == pytest.approx(1 / (1 + math.exp(1.0 + 0.25 / 0.5)))
    assert MODEL.of(output(confidence=0.5)) == unknown


def test_sql_and_python_compute_the_same_risk(database: Database) -> None:
    tokens = [(0, 3), (7, 0), (7, 3), (7, 50), (2_000, 50)]
    outcomes = [result(tokens_in=n_in, tokens_out=n_out) for n_in, n_out in tokens]
    outcomes += [
        result("windowed", tokens_in=7, tokens_out=3, confidence=0.7, mean_logprob=-0.3, least_logprob=-4.0),
        result("repetition", tokens_in=7, tokens_out=3),
    ]
    features = tuple(RiskFeature(name, 0.5, 0.2, 1 / 500) for name in (*NUMBERS, "flag repetition"))
    for some_features in (*((feature,) for feature in features), features):
        model = RiskModel(0.25, some_features)
        for outcome in outcomes:
            risk = model.of(vars(outcome))
            for value in (risk - 1e-9, risk + 1e-9):
                doubt = Doubt(frozenset(), (Bound("risk", False, value),), risk=FittedRisk(1, model))
                assert is_doubted(doubt, outcome, database) is (risk > value)
