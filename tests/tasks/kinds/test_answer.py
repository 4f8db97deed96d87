"""Every window of a text is asked each question, and each question has its own answer."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.storage.outputs.output_types import RECORD
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, PromptTooLong
from docmill.tasks.kinds import answer
from docmill.tasks.kinds.answer import answer_in, asking
from docmill.tasks.kinds.base import Recipe, Traits
from docmill.tasks.outputs import Output, Span, Spans, SpanScores
from docmill.tasks.windows.windows import Encoded, Window
from tests.tasks.conftest import data_of
from tests.tasks.fakes import join, plan_spec
from tests.tasks.kinds.test_answer_spans import places_of


@dataclass(frozen=True)
class QuestionCoder:
    """A coder whose tokens are words: those of a question, then those of a text."""

    question: str
    limit_tokens: int

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [self._encoded(text) for text in texts]

    def _encoded(self, text: str) -> Encoded:
        words, leading = [word.span() for word in re.finditer(r"\S+", text)], len(self.question.split())
        ids = array("i", [*[-1] * leading, *range(len(words))])
        return Encoded(len(ids), {"input_ids": ids}, places=replace(places_of(words), leading=leading))


def spec_for(question: Any, **options: Any) -> Spec:
    return plan_spec("answer", question=question, **options)


def recipe_for(spec: Spec, limit: int = 100) -> Recipe:
    return kinds.recipe(spec, Traits(pairs=lambda question: QuestionCoder(question, limit)))


def make_scores(window: Window, answer: str, text: str, null: float) -> SpanScores:
    """Return scores that make a word the answer."""
    places = window.places
    assert places is not None
    words = [text[start:end] for start, end in zip(places.starts, places.ends, strict=True)]
    word_scores = np.array([5.0 if word == answer else -5.0 for word in words], np.float32)
    return SpanScores(word_scores, word_scores, null)


def join_answers(recipe: Recipe, content: str, windows: list[Window], outputs: Sequence[Output | None]) -> Outcome:
    joined = join(recipe, content, windows, outputs)
    assert joined.status is not Status.DONE or RECORD.problem(joined) is None
    return joined


TEXT = "Ada wrote the first program in 1843 , and Charles built the machine"


def test_each_question_has_the_answer_from_its_own_windows() -> None:
    recipe = recipe_for(spec_for({"who": "Who wrote it ?", "year": "When ?", "none": "Which city ?"}), limit=12)
    (windows,) = recipe.cut([TEXT], QuestionCoder("", 12))
    assert all(window.encoded is not None and window.encoded.tokens <= 12 for window in windows)
    questions = [len((window.encoded or Encoded(0, "")).ids) for window in windows]
    assert len(questions) > 3
    begun, outputs = 0, []
    for window in windows:
        assert window.places is not None
        begun += window.places.first == 0
        answer = ("", "Rome", "Ada", "1843")[begun]  # in the order of the names: none, who, year
        outputs.append(make_scores(window, answer, TEXT, null=1.0))
    outcome = join_answers(recipe, TEXT, windows, outputs)
    assert outcome.flags == ("windowed",)
    record = data_of(outcome)["data"]
    assert (record["who"], record["year"], record["none"]) == ("Ada", "1843", None)
    assert record["who_score"] == record["who_spans"][0]["score"] > 0.9
    assert record["none_score"] is None
    assert record["none_no_answer"] > 0.9 > record["who_no_answer"]
    assert [len(record[f"{name}_spans"]) for name in ("who", "year", "none")] == [1, 1, 1]
    for name in ("who", "year"):
        (span,) = record[f"{name}_spans"]
        assert TEXT[span["start"] : span["end"]] == span["text"] == record[name]


def test_a_question_with_metadata_comes_before_the_text_and_offsets_count_from_the_text() -> None:
    recipe = recipe_for(spec_for("Who wrote {meta.title} ?"))
    content = f"Who wrote The Notes ?\n{TEXT}"
    (windows,) = recipe.cut([content], QuestionCoder("", 100))
    assert windows[0].encoded == QuestionCoder("Who wrote The Notes ?", 100).encode([TEXT])[0]
    record = data_of(join_answers(recipe, content, windows, [make_scores(windows[0], "Ada", TEXT, 0.0)]))["data"]
    assert (record["answer"], record["answer_spans"][0]["start"], record["answer_spans"][0]["end"]) == ("Ada", 0, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\nSome text .", "The question is empty for this document"),
        ("word " * 13 + "\nSome text .", "A question takes 13 of the 20 tokens of a window"),
    ],
)
def test_a_question_that_is_empty_or_leaves_no_room_fails_its_document_with_the_reason(
    content: str, message: str
) -> None:
    with pytest.raises(PromptTooLong, match=message):
        recipe_for(spec_for("{meta.q}"), limit=20).cut([content], QuestionCoder("", 20))


def test_always_answer_leaves_the_null_score_out() -> None:
    always = spec_for("Who ?", always_answer=True)
    recipe = recipe_for(always)
    (windows,) = recipe.cut([TEXT], QuestionCoder("", 100))
    record = data_of(join_answers(recipe, TEXT, windows, [make_scores(windows[0], "Ada", TEXT, 99.0)]))["data"]
    assert record["answer"] == "Ada"
    columns = [column.name for column in RECORD.columns(always.params)]
    assert {*record} == {name.removeprefix("data_") for name in columns} == {"answer", "answer_score", "answer_spans"}


def test_answers_that_a_backend_finds_are_moved_to_their_window() -> None:
    recipe = kinds.recipe(spec_for(["Who ?", "When ?"]), Traits())
    windows = [Window(0, 4, Encoded(1, "abc "), part=True), Window(4, 7, Encoded(1, "def"), part=True)]
    record = data_of(join_answers(recipe, "abc def", windows, [Spans(()), Spans((Span("x", 1, 3, 0.5),))]))["data"]
    assert (record["answer_1"], record["answer_2"], record["answer_2_score"]) == ("ef", "ef", 0.5)


def test_options_that_are_missing_or_contradict_are_refused() -> None:
    with pytest.raises(BadOption, match=r"answer needs --question, such as"):
        plan_spec("answer")
    with pytest.raises(BadOption, match="--always-answer and --no-answer-threshold do not go together"):
        spec_for("Who?", always_answer=True, no_answer_threshold=1.0)
    for count in (0, 1_001):
        with pytest.raises(BadOption, match="--top-k must be between 1 and 1,000 for answers in the text"):
            spec_for("Who?", top_k=count)


SPEC = Spec("answer", "model", "0" * 40, params={"question": {"a": "Who {{x}}?", "b": "{meta.q}"}})


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (" Ada \n", "Ada"),
        ("", None),
        ("unanswerable", None),
        ('"Unanswerable."', None),
        ("The question is unanswerable because", "The question is unanswerable because"),
    ],
)
def test_the_words_for_no_answer_are_no_answer(written: str, answer: str | None) -> None:
    assert answer_in(written) == answer


@pytest.mark.parametrize("question", ["Who wrote {it}?", "What is {meta.q}?", "Why?"])
def test_a_question_stands_in_the_words_for_each_sort_of_model_as_it_is(question: str) -> None:
    spec = asking(SPEC, question)
    chat = answer.chat(spec).fill("The text.")
    assert chat.endswith(f"Text:\nThe text.\n\nQuestion: {question}")
    assert answer.completed(spec, False).fill("The text.") == f"Text: The text.\nQuestion: {question}\nAnswer:"
    with_example = answer.completed(spec, True).fill("The text.")
    assert with_example.endswith(f"\n\nText: The text.\nQuestion: {question}\nAnswer:")
    assert answer_in(with_example.split("Answer:")[2].splitlines()[0]) is None


@pytest.mark.parametrize(
    ("question", "questions"),
    [
        ("Who  wrote\nit?", {"answer": "Who wrote it?"}),
        ("author=Who wrote it?", {"author": "Who wrote it?"}),
        (["Who?", "year=When?", "Where?"], {"answer_1": "Who?", "year": "When?", "answer_3": "Where?"}),
        ({"author": "Who?", "year": "When?"}, {"author": "Who?", "year": "When?"}),
        ("{meta.question}", {"answer": "{meta.question}"}),
        ("نوشته\u200cاست؟", {"answer": "نوشته\u200cاست؟"}),
    ],
)
def test_a_text_a_list_and_a_table_give_questions_by_name(question: Any, questions: dict[str, str]) -> None:
    assert kinds.options("answer", question=question).to_params() == {"question": questions}


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (7, 'must be a question, a list of questions, or a table such as { author = "Who wrote it?" }, not 7'),
        (["Who?", 7], "7 is none of these"),
        ("", "has no words for answer"),
        ("Author=Who?", "has the name 'Author'; a name has up to 30 small letters"),
        (["a=Who?", "a=When?"], "names a twice"),
        (["a=Who?", "a_score=When?"], "names a and a_score, which both have a column a_score"),
        ("Who\0?", "has a character that cannot be printed"),
        ("Who wrote {text}?", "{text} has no place in a question"),
        ("Who wrote {title}?", "there is no placeholder {title}, only {text} and {meta.FIELD}"),
        ("Who wrote {meta.title?", "a single { stands in it"),
    ],
)
def test_a_wrong_question_is_refused_with_the_reason(question: Any, message: str) -> None:
    with pytest.raises(BadOption) as refused:
        kinds.options("answer", question=question)
    assert str(refused.value).startswith("--question ")
    assert message in str(refused.value)
