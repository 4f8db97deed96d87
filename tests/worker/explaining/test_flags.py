"""Flags have meanings in words."""

from __future__ import annotations

from storage.core.flags import known
from worker.explaining.flags import MEANINGS, meaning


def test_only_flags_that_there_are_have_a_meaning() -> None:
    assert {*MEANINGS} <= {*known()}


def test_a_flag_with_a_value_has_the_meaning_of_its_name_and_an_unknown_one_has_none() -> None:
    assert meaning("language:fr") == "the language that was found"
    assert meaning("invalid_utf8@17") == "the reader replaced bytes that are no UTF-8 by U+FFFD"
    assert meaning("of_another_release") is None
