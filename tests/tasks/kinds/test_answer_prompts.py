"""Models that write are asked in words, and their answers are read from words."""

from __future__ import annotations

import pytest

from storage.core.specs import Spec
from tasks.kinds import answer_prompts
from tasks.kinds.answer_prompts import answer_in, asking

SPEC = Spec("answer", "model", "0" * 40, params={"question": {"a": "Who {{x}}?", "b": "{meta.q}"}})


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (" Ada \n", "Ada"),
        ("", None),
        (" \n", None),
        ("unanswerable", None),
        ('"Unanswerable."', None),
        ("<no answer>", None),
        ("The question is unanswerable because", "The question is unanswerable because"),
    ],
)
def test_the_words_for_no_answer_are_no_answer(written: str, answer: str | None) -> None:
    assert answer_in(written) == answer


@pytest.mark.parametrize("question", ["Who wrote {it}?", "What is {meta.q}?", "Why?"])
def test_a_question_stands_in_the_words_for_each_sort_of_model_as_it_is(question: str) -> None:
    spec = asking(SPEC, question)
    chat = answer_prompts.chat(spec).fill("The text.")
    assert chat.endswith(f"Text:\nThe text.\n\nQuestion: {question}")
    assert (
        answer_prompts.completed(spec, False).fill("The text.") == f"Text: The text.\nQuestion: {question}\nAnswer:"
    )
    shown = answer_prompts.completed(spec, True).fill("The text.")
    assert shown.endswith(f"\n\nText: The text.\nQuestion: {question}\nAnswer:")
    assert answer_in(shown.split("Answer:")[2].splitlines()[0]) is None
