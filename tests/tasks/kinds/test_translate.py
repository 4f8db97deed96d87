"""Translations by paragraph and by sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from docmill.storage.core.specs import Outcome, Status
from docmill.tasks.kinds.translate import Translate
from docmill.tasks.outputs import Generated
from tests.tasks.conftest import Bench
from tests.tasks.fakes import join, plan_spec
from tests.tasks.windows.test_windows import Characters

MARIAN = {"model_type": "marian", "is_encoder_decoder": True}
TWO_SENTENCES = "Ce paquet contient la bibliothèque partagée. Il fournit les fichiers de développement."


def translate_with(write: Callable[[str], str], text: str, by_sentence: bool = True, limit: int = 10**6) -> Outcome:
    """Return the outcome of a text after ``write`` translated its windows of up to ``limit`` characters."""
    recipe = Translate(by_sentence)
    (windows,) = recipe.cut([text], Characters(limit))
    pieces = [None if window.encoded is None else str(window.encoded.features) for window in windows]
    outcome = join(recipe, text, windows, [None if piece is None else Generated(write(piece), 1) for piece in pieces])
    assert outcome.status is Status.DONE
    return outcome


def join_translations(text: str, outputs: Sequence[str], by_sentence: bool = True, limit: int = 10**6) -> Outcome:
    """Return the outcome of a text whose windows have these outputs."""
    left = list(outputs)
    outcome = translate_with(lambda _: left.pop(0), text, by_sentence, limit)
    assert not left
    return outcome


@pytest.mark.parametrize(
    ("text", "outputs", "expected"),
    [
        ("Un. Deux.\nTrois.\n\n* Quatre.", ["One.", "Two.", "Three.", "Four."], "One. Two.\nThree.\n\n* Four."),
        ("東京は首都です。人口は？", ["Tokyo is the capital.", "And people?"], "Tokyo is the capital. And people?"),
        ("他说：“好。”她走了。", ["He said: “Good.”", "She left."], "He said: “Good.” She left."),
        ("他说：“好。”她走了。", ["彼は「はい。」", "彼女は去った。"], "彼は「はい。」彼女は去った。"),
        ("One. Two.\nThree.", ["一。", "二。", "三。"], "一。二。\n三。"),
        ("Oui. ... Non.", ["Yes.", "No."], "Yes. ... No."),
        ("| Un. Deux. | Trois |\n|--|--|\n", ["a|b", "Two.", "Three"], "| a\\|b Two. | Three |\n|--|--|\n"),
    ],
)
def test_sentences_are_put_together_as_they_stood(text: str, outputs: list[str], expected: str) -> None:
    assert join_translations(text, outputs).text == expected


@pytest.mark.parametrize("by_sentence", [False, True])
def test_a_word_longer_than_a_window_stays_whole(by_sentence: bool) -> None:
    text = "Siehe abcdefghijabcdefghijabcdefghij dort."
    outcome = translate_with(lambda piece: piece, text, by_sentence, limit=11)
    assert (outcome.text, outcome.flags) == (text, ("windowed",))


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (
            ("Tokyo is the capital.", "Many live there.", "The river?"),
            "Tokyo is the capital. Many live there.\nThe river?",
        ),
        (("东京是首都，", "人口多", "河流呢？"), "东京是首都，人口多\n河流呢？"),
    ],
)
def test_windows_of_a_paragraph_without_spaces_are_put_together_as_the_translation_is_written(
    outputs: tuple[str, ...], expected: str
) -> None:
    text = "東京は首都です。人口は多い。\n川は？"
    assert join_translations(text, outputs, by_sentence=False, limit=11).text == expected


def test_a_sentence_of_which_the_model_makes_nothing_is_flagged() -> None:
    outcome = join_translations("Un. Deux.", ["", "Two."])
    assert (outcome.text, outcome.flags) == ("Two.", ("empty_window",))
    nothing = join_translations("Un. Deux.", ["", ""])
    assert ((nothing.text or "").strip(), nothing.flags) == ("", ("empty",))


def test_a_spec_names_the_unit_only_where_it_is_the_sentence() -> None:
    def params(**options: Any) -> dict[str, Any]:
        return dict(plan_spec("translate", MARIAN, **options).params)

    assert params(unit="paragraph") == params()
    assert params(unit="sentence") == {**params(), "unit": "sentence"}


def test_each_sentence_is_translated_as_if_it_stood_alone(bench: Bench) -> None:
    units = ("paragraph", "sentence")
    whole, sentences = (bench.spec("translate", "marian-ddtp", unit=unit, beams=1) for unit in units)
    alone = bench.run(whole, [f"{sentence.strip('.')}." for sentence in TWO_SENTENCES.split(". ")])
    (paragraph,), (by_sentence,) = bench.run(whole, [TWO_SENTENCES]), bench.run(sentences, [TWO_SENTENCES])
    assert by_sentence.text == " ".join(outcome.text or "" for outcome in alone)
    assert by_sentence.tokens_in == sum(outcome.tokens_in for outcome in alone) > paragraph.tokens_in
    assert "windowed" not in by_sentence.flags
