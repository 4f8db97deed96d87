"""The registry of checks, and the checks that suit each kind of task."""

from __future__ import annotations

import logging

import pytest

from docmill.storage.core.outcomes import CHECKED, DOUBTFUL, Outcome, Status
from docmill.storage.core.specs import Spec
from docmill.tasks import checks, kinds
from docmill.tasks.checks import CHECKS, Check, Checks, Context
from docmill.tasks.kinds import Traits
from docmill.tasks.models.language_pairs import Direction

LOOP = "again and again and again and again"


def spec(kind: str, model: str = "some/model", **params: object) -> Spec:
    return Spec(kind, model, "0" * 40, params=params)


def flags_of(kind: str, model: str = "some/model", **params: object) -> tuple[str, ...]:
    return kinds.checks(spec(kind, model, **params), Traits()).flags


def test_every_check_raises_a_flag_that_makes_an_output_doubtful() -> None:
    assert {*CHECKS} == CHECKED
    assert CHECKED < DOUBTFUL


@pytest.mark.parametrize("kind", ["embed", "sparse", "classify", "entities", "redact", "extract"])
def test_outputs_that_no_model_words_are_not_checked(kind: str) -> None:
    assert flags_of(kind) == ()


def test_the_checks_suit_the_task() -> None:
    assert flags_of("translate") == tuple(CHECKS)
    assert flags_of("generate") == ("repetition",)
    assert {"repetition", "length_ratio", "copied_input"} <= {*flags_of("summarize")}
    assert flags_of("summarize", ranking="rule") == ()
    assert flags_of("translate", model="null") == ()
    assert flags_of("translate", prompt="{meta.title} {text}") == ("repetition",)
    assert flags_of("answer", properties={"who": {}}) == ("repetition",)
    assert flags_of("answer", properties={"who": {}, "who_spans": {}}) == ()


def test_the_languages_of_a_translation_come_from_its_options_or_its_model() -> None:
    opus = Traits(direction=Direction(sources=("fr", "es"), targets=("en",)))
    assert kinds.checks(spec("translate"), opus).context == Context(None, "en")
    asked = kinds.checks(spec("translate", source_lang="fra_Latn", target_lang="de"), Traits())
    assert asked.context == Context("fr", "de")


def test_a_text_that_was_kept_is_not_checked_and_a_found_language_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Context] = []

    def find(_given: str, _output: str, context: Context) -> list[checks.Finding]:
        told.append(context)
        return []

    monkeypatch.setattr(checks, "CHECKS", {"repetition": Check("repetition", "", find)})
    assert Checks(("repetition",)).findings("", LOOP, ["language:es", "windowed"]) == []
    assert told == [Context(source="es")]
    monkeypatch.undo()
    assert Checks(("repetition",)).findings("", LOOP)
    assert Checks(("repetition",)).findings("", LOOP, ["language:en", "already_in_target"]) == []


def test_a_check_that_raises_finds_nothing_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_given: str, _output: str, _context: Context) -> list[checks.Finding]:
        raise ZeroDivisionError

    monkeypatch.setattr(checks, "CHECKS", {"repetition": Check("repetition", "", broken)})
    with caplog.at_level(logging.ERROR):
        assert Checks(("repetition",)).findings("", LOOP) == []
    assert "check.raised" in caplog.text


def test_all_texts_of_an_outcome_are_checked() -> None:
    assert checks.written(Outcome(1, Status.DONE, text="a", data={"texts": ["a", "b"]})) == ["a", "b"]
    assert checks.written(Outcome(1, Status.DONE, text="a")) == ["a"]
    assert checks.written(Outcome(1, Status.DONE, data={"data": {"who": "Ada", "when": None}})) == ["Ada"]
