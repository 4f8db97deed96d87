"""A text is routed by its guessed languages."""

from __future__ import annotations

import pytest

from tasks.languages.detection import Guess
from tasks.languages.router import Action, LanguageRouter, Route

MARIAN = LanguageRouter("marian-ddtp", "en", frozenset({"fr", "es"}), told=False)
NLLB = LanguageRouter("nllb", "eng_Latn", frozenset({"fr", "de", "no", "en"}), told=True)


def guesses(**probabilities: float) -> list[Guess]:
    return [Guess(language, probability) for language, probability in probabilities.items()]


@pytest.mark.parametrize("ways", [MARIAN, NLLB])
def test_a_sure_guess_decides(ways: LanguageRouter) -> None:
    assert ways.route(guesses(fr=0.9, en=0.1)) == Route(Action.TRANSLATE, "fr", certain=True)
    assert ways.route(guesses(en=0.9, fr=0.1)) == Route(Action.KEEP, "en", certain=True)
    assert ways.route(guesses(ja=0.9, fr=0.1)) == Route(Action.REFUSE, "ja", certain=True)


@pytest.mark.parametrize("ways", [MARIAN, NLLB])
def test_of_unsure_guesses_the_best_that_the_model_reads_or_writes_decides(ways: LanguageRouter) -> None:
    assert ways.route(guesses(it=0.4, fr=0.3, en=0.2)) == Route(Action.TRANSLATE, "fr", certain=False)
    assert ways.route(guesses(it=0.4, en=0.3, fr=0.2)) == Route(Action.KEEP, "en", certain=False)


def test_a_text_without_a_guess_is_kept() -> None:
    assert NLLB.route([]) == MARIAN.route([]) == Route(Action.KEEP, None, certain=False)


def test_a_text_of_no_language_that_the_model_reads_is_taken_for_its_own_unless_one_must_be_told() -> None:
    assert MARIAN.route(guesses(it=0.4)) == Route(Action.TRANSLATE, None, certain=False)
    unknown = NLLB.route(guesses(ja=0.4))
    assert unknown == Route(Action.REFUSE, None, certain=False)
    assert NLLB.refusal(unknown) == "Its language cannot be told, and nllb must be told one."


def test_a_refusal_says_what_the_text_is_and_what_the_model_reads() -> None:
    german = MARIAN.route(guesses(de=0.99))
    assert MARIAN.refusal(german) == "It is German, and marian-ddtp translates from Spanish or French."
    many = LanguageRouter("m2m", "en", frozenset(["ab", "cd", "ef", "gh", "ij", "kl", "mn"]), told=True)
    assert many.refusal(many.route(guesses(de=0.99))) == "It is German, which m2m does not translate from."
    assert "in the language xmf" in MARIAN.refusal(MARIAN.route(guesses(xmf=0.99)))


def test_codes_that_mean_one_language_are_one() -> None:
    assert NLLB.route(guesses(nn=0.9)).fate is Action.TRANSLATE
    assert LanguageRouter("m", "nb", None, told=False).route(guesses(no=0.9)).fate is Action.KEEP


def test_a_rare_languages_code_is_not_taken_for_another_languages_name() -> None:
    alemannic = guesses(als=0.9)  # NLLB's als is Albanian
    assert LanguageRouter("m", "sq", None, told=True).route(alemannic).fate is Action.REFUSE
    assert LanguageRouter("m", "en", frozenset({"sq"}), told=False).route(alemannic).fate is Action.REFUSE


def test_where_nothing_is_known_of_a_model_everything_is_translated() -> None:
    anything = LanguageRouter("m", "en", None, told=False)
    assert anything.route(guesses(xmf=0.9)) == Route(Action.TRANSLATE, "xmf", certain=True)


def test_flags_say_what_was_found() -> None:
    assert Route(Action.TRANSLATE, "fr", certain=True).flags == ("language:fr",)
    assert Route(Action.KEEP, "en", certain=False).flags == ("language:en", "already_in_target", "language_uncertain")
    assert Route(Action.TRANSLATE, None, certain=False).flags == ("language_uncertain",)
