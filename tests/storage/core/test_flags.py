"""Flags have names that are declared, and a name stands for a flag or a family of them."""

from __future__ import annotations

import pytest

from docmill.storage.core.flags import DOUBTS, Flagged, known, name_of, named, ordered
from docmill.storage.core.outcomes import DOUBTFUL
from docmill.storage.errors import BoundInvalid, FlagUnknown


def test_every_known_flag_can_be_named_and_one_word_stands_for_all_doubtful_ones() -> None:
    assert named(known()) == frozenset(known())
    assert named([DOUBTS]) == DOUBTFUL
    assert named([DOUBTS, "windowed", "language:fr"]) == DOUBTFUL | {"windowed", "language:fr"}
    assert known()[: len(DOUBTFUL)] == sorted(DOUBTFUL)


@pytest.mark.parametrize("name", ["", "truncated", "Empty", "7", "doubtful,empty"])
def test_an_unknown_flag_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(FlagUnknown, match=r"there are .*empty, empty_window, .*windowed"):
        named([name])


def test_a_flag_with_an_offset_has_the_name_without_it() -> None:
    assert [name_of(flag) for flag in ("invalid_utf8@17", "language:fr", "empty")] == [
        "invalid_utf8",
        "language:fr",
        "empty",
    ]


def test_numbers_of_doubtful_flags_come_first_and_large_ones_before_small_ones() -> None:
    assert [*ordered({"windowed": 9, "empty": 1, "not_reduced": 2, "reduced": 9})] == [
        *("not_reduced", "empty", "reduced", "windowed"),
    ]


def test_a_condition_says_what_it_wants() -> None:
    assert str(Flagged()) == "flagged doubtful"
    assert str(Flagged(frozenset({"windowed", "empty"}), lacking=True)) == "unflagged empty,windowed"
    assert str(Flagged.parse(["doubtful", " confidence < 0.4"])) == "flagged doubtful,confidence<0.4"


def test_a_condition_is_stored_in_full_and_without_bounds_as_ever() -> None:
    assert Flagged().to_json() == {"names": ["doubtful"], "lacking": False}
    assert Flagged(frozenset({"windowed", "empty"}), lacking=True).to_json() == {
        "names": ["empty", "windowed"],
        "lacking": True,
    }
    for parts in (["confidence<0.123456789"], ["empty", "mean_logprob>-1e-09", "least_logprob<-4"]):
        condition = Flagged.parse(parts, lacking=True)
        assert Flagged.stored(condition.to_json()) == condition


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("confidence", "has no bound; write for example confidence<0.4"),
        ("confidence<half", "has no number"),
        ("sureness<0.5", "is no bound of confidence"),
        ("risk>0.3", "docmill results JOB --risk-above 0.3 does"),
    ],
)
def test_a_wrong_bound_is_refused_with_an_example(part: str, says: str) -> None:
    with pytest.raises(BoundInvalid, match=says):
        Flagged.parse([part])
