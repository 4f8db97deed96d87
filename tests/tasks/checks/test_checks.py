"""Each kind of task has its checks, and a finding is a flag."""

from __future__ import annotations

import json
import logging
from unittest import mock

import pytest

from docmill.storage.core.specs import CHECKED, DOUBTFUL, LOW_CONFIDENCE, Outcome, Spec, Status
from docmill.storage.steps.conditions import list_flags
from docmill.tasks import checks, kinds
from docmill.tasks.checks import Check, Checks, Context, all_checks
from docmill.tasks.engine.tickets import TicketText
from docmill.tasks.kinds import Traits
from docmill.tasks.models.families import Direction
from tests.tasks.checks import verdicts

LOOP = "again and again and again and again"


def spec_of(kind: str, model: str = "some/model", **params: object) -> Spec:
    return Spec(kind, model, "0" * 40, params=params)


def flags_of(kind: str, model: str = "some/model", **params: object) -> tuple[str, ...]:
    return kinds.checks(spec_of(kind, model, **params), Traits()).flags


def test_every_check_raises_a_flag_that_makes_an_output_doubtful() -> None:
    assert {*all_checks()} == CHECKED
    assert CHECKED < DOUBTFUL


@pytest.mark.parametrize("kind", ["embed", "sparse", "classify", "entities", "redact", "extract"])
def test_outputs_that_are_no_prose_are_not_checked(kind: str) -> None:
    assert flags_of(kind) == ()


def test_the_checks_suit_the_task() -> None:
    assert flags_of("translate") == tuple(all_checks())
    assert flags_of("generate") == ("repetition",)
    assert {"repetition", "length_ratio", "copied_input"} <= {*flags_of("summarize")}
    assert flags_of("summarize", ranking="rule") == ()
    assert flags_of("translate", model="null") == ()
    assert flags_of("translate", prompt="{meta.title} {text}") == ("repetition",)
    assert flags_of("answer", properties={"who": {}}) == ("repetition",)
    assert flags_of("answer", properties={"who": {}, "who_spans": {}}) == ()


def test_the_languages_of_a_translation_come_from_its_options_or_its_model() -> None:
    opus = Traits(direction=Direction(sources=("fr", "es"), targets=("en",)))
    assert kinds.checks(spec_of("translate"), opus).context == Context(None, "en")
    with_options = kinds.checks(spec_of("translate", source_lang="fra_Latn", target_lang="de"), Traits())
    assert with_options.context == Context("fr", "de")


def test_a_kept_text_is_not_checked_and_checks_get_the_detected_language(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[Context] = []

    def find(_given: str, _output: str, context: Context) -> list[checks.Finding]:
        contexts.append(context)
        return []

    monkeypatch.setattr(checks, "all_checks", lambda: {"repetition": Check("repetition", "", find)})
    assert Checks(("repetition",)).findings("", LOOP, ["language:es", "windowed"]) == []
    assert contexts == [Context(source="es")]
    monkeypatch.undo()
    assert Checks(("repetition",)).findings("", LOOP)
    assert Checks(("repetition",)).findings("", LOOP, ["language:en", "already_in_target"]) == []


def test_an_error_in_a_check_is_logged_and_no_finding(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_given: str, _output: str, _context: Context) -> list[checks.Finding]:
        raise ZeroDivisionError

    monkeypatch.setattr(checks, "all_checks", lambda: {"repetition": Check("repetition", "", broken)})
    with caplog.at_level(logging.ERROR):
        assert Checks(("repetition",)).findings("", LOOP) == []
    assert "check.raised" in caplog.text


def test_all_texts_of_an_outcome_are_checked() -> None:
    assert checks.written(Outcome(1, Status.DONE, text="a", data={"texts": ["a", "b"]})) == ["a", "b"]
    assert checks.written(Outcome(1, Status.DONE, text="a")) == ["a"]
    assert checks.written(Outcome(1, Status.DONE, data={"data": {"who": "Ada", "when": None}})) == ["Ada"]


def test_the_findings_in_real_translations_have_not_changed() -> None:
    expected = json.loads(verdicts.KEPT.read_text(encoding="utf-8"))
    actual = verdicts.find_verdicts()
    assert len(actual) >= 900
    assert {name: findings for name, findings in actual.items() if findings} == expected
    assert {finding.split(" ")[0] for findings in expected.values() for finding in findings} == {*all_checks()}


def finish(confidence: float, checks: Checks) -> tuple[str, ...]:
    """Return the flags of a text whose output has this confidence."""
    outcome = Outcome(1, Status.DONE, text="Trees grow.", flags=("windowed",), confidence=confidence)
    recipe = mock.Mock(join=lambda _: outcome)
    finished = TicketText(mock.Mock(), 0, 1, "Les arbres poussent.").finish(recipe, checks)
    assert isinstance(finished, Outcome)
    return finished.flags


def test_an_output_below_the_bound_is_doubtful() -> None:
    checks = Checks(least_confidence=0.3)
    assert finish(0.2999, checks) == ("windowed", "low_confidence")
    assert finish(0.3, checks) == ("windowed",)
    assert LOW_CONFIDENCE in DOUBTFUL
    assert LOW_CONFIDENCE in list_flags()


def test_a_flag_with_a_value_has_the_meaning_of_its_name_and_an_unknown_one_has_none() -> None:
    assert checks.meaning("language:fr") == "the language that was found"
    assert checks.meaning("invalid_utf8@17") == "the reader replaced bytes that are no UTF-8 by U+FFFD"
    assert checks.meaning("of_another_release") is None
