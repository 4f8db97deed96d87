"""Each question is asked of every window of a text, and has its own answer."""

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
from docmill.tasks.specs.pinning import Pinned
from docmill.tasks.specs.plan import build_spec
from docmill.tasks.windows.windows import Encoded, Window
from tests.tasks.conftest import data_of
from tests.tasks.fakes import join
from tests.tasks.kinds.test_answer_spans import places_of

PINNED = Pinned("model", "0" * 40)


@dataclass(frozen=True)
class Beside:
    """A coder whose tokens are words, of a question first and then of a text."""

    question: str
    limit_tokens: int

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [self._encoded(text) for text in texts]

    def _encoded(self, text: str) -> Encoded:
        words, leading = [word.span() for word in re.finditer(r"\S+", text)], len(self.question.split())
        ids = array("i", [*[-1] * leading, *range(len(words))])
        return Encoded(len(ids), {"input_ids": ids}, places=replace(places_of(words), leading=leading))


def spec(question: Any, **options: Any) -> Spec:
    return build_spec("answer", PINNED, kinds.options("answer", question=question, **options), {})


def recipe(spec: Spec, limit: int = 100) -> Recipe:
    return kinds.recipe(spec, Traits(pairs=lambda question: Beside(question, limit)))


def scores(window: Window, answer: str, text: str, null: float) -> SpanScores:
    """Return scores by which a word is the answer."""
    places = window.places
    assert places is not None
    words = [text[start:end] for start, end in zip(places.starts, places.ends, strict=True)]
    here = np.array([5.0 if word == answer else -5.0 for word in words], np.float32)
    return SpanScores(here, here, null)


def join_answers(recipe: Recipe, content: str, windows: list[Window], outputs: Sequence[Output | None]) -> Outcome:
    joined = join(recipe, content, windows, outputs)
    assert joined.status is not Status.DONE or RECORD.problem(joined) is None
    return joined


TEXT = "Ada wrote the first program in 1843 , and Charles built the machine"


def test_each_question_has_the_answer_from_its_own_windows() -> None:
    asked = recipe(spec({"who": "Who wrote it ?", "year": "When ?", "none": "Which city ?"}), limit=12)
    (windows,) = asked.cut([TEXT], Beside("", 12))
    assert all(window.encoded is not None and window.encoded.tokens <= 12 for window in windows)
    questions = [len((window.encoded or Encoded(0, "")).ids) for window in windows]
    assert len(questions) > 3
    begun, outputs = 0, []
    for window in windows:
        assert window.places is not None
        begun += window.places.first == 0
        answer = ("", "Rome", "Ada", "1843")[begun]  # in the order of the names: none, who, year
        outputs.append(scores(window, answer, TEXT, null=1.0))
    outcome = join_answers(asked, TEXT, windows, outputs)
    assert outcome.flags == ("windowed",)
    found = data_of(outcome)["data"]
    assert (found["who"], found["year"], found["none"]) == ("Ada", "1843", None)
    assert found["who_score"] == found["who_spans"][0]["score"] > 0.9
    assert found["none_score"] is None
    assert found["none_no_answer"] > 0.9 > found["who_no_answer"]
    assert [len(found[f"{name}_spans"]) for name in ("who", "year", "none")] == [1, 1, 1]
    for name in ("who", "year"):
        (span,) = found[f"{name}_spans"]
        assert TEXT[span["start"] : span["end"]] == span["text"] == found[name]


def test_a_question_with_metadata_comes_before_the_text_and_offsets_count_from_the_text() -> None:
    rendered = spec("Who wrote {meta.title} ?")
    asked = recipe(rendered)
    content = f"Who wrote The Notes ?\n{TEXT}"
    (windows,) = asked.cut([content], Beside("", 100))
    assert windows[0].encoded == Beside("Who wrote The Notes ?", 100).encode([TEXT])[0]
    found = data_of(join_answers(asked, content, windows, [scores(windows[0], "Ada", TEXT, 0.0)]))["data"]
    assert (found["answer"], found["answer_spans"][0]["start"], found["answer_spans"][0]["end"]) == ("Ada", 0, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("\nSome text .", "The question is empty for this document"),
        ("word " * 13 + "\nSome text .", "A question takes 13 of the 20 tokens of a window"),
    ],
)
def test_a_question_that_is_empty_or_leaves_no_room_fails_its_document_with_the_reason(
    content: str, said: str
) -> None:
    with pytest.raises(PromptTooLong, match=said):
        recipe(spec("{meta.q}"), limit=20).cut([content], Beside("", 20))


def test_always_answer_leaves_the_null_score_out() -> None:
    always = spec("Who ?", always_answer=True)
    asked = recipe(always)
    (windows,) = asked.cut([TEXT], Beside("", 100))
    found = data_of(join_answers(asked, TEXT, windows, [scores(windows[0], "Ada", TEXT, 99.0)]))["data"]
    assert found["answer"] == "Ada"
    columns = [column.name for column in RECORD.columns(always.params)]
    assert {*found} == {name.removeprefix("data_") for name in columns} == {"answer", "answer_score", "answer_spans"}


def test_answers_that_a_backend_finds_are_moved_to_their_window() -> None:
    asked = kinds.recipe(spec(["Who ?", "When ?"]), Traits())
    windows = [Window(0, 4, Encoded(1, "abc "), part=True), Window(4, 7, Encoded(1, "def"), part=True)]
    found = data_of(join_answers(asked, "abc def", windows, [Spans(()), Spans((Span("x", 1, 3, 0.5),))]))["data"]
    assert (found["answer_1"], found["answer_2"], found["answer_2_score"]) == ("ef", "ef", 0.5)


def test_options_that_are_missing_or_contradict_are_refused() -> None:
    with pytest.raises(BadOption, match=r"answer needs --question, such as"):
        build_spec("answer", PINNED, kinds.options("answer"), {})
    with pytest.raises(BadOption, match="--always-answer and --no-answer-threshold do not go together"):
        spec("Who?", always_answer=True, no_answer_threshold=1.0)
    for count in (0, 1_001):
        with pytest.raises(BadOption, match="--top-k must be between 1 and 1,000 for answers in the text"):
            spec("Who?", top_k=count)


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
    shown = answer.completed(spec, True).fill("The text.")
    assert shown.endswith(f"\n\nText: The text.\nQuestion: {question}\nAnswer:")
    assert answer_in(shown.split("Answer:")[2].splitlines()[0]) is None


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("Who  wrote\nit?", {"answer": "Who wrote it?"}),
        ("author=Who wrote it?", {"author": "Who wrote it?"}),
        (["Who?", "year=When?", "Where?"], {"answer_1": "Who?", "year": "When?", "answer_3": "Where?"}),
        ({"author": "Who?", "year": "When?"}, {"author": "Who?", "year": "When?"}),
        ("{meta.question}", {"answer": "{meta.question}"}),
        ("نوشته\u200cاست؟", {"answer": "نوشته\u200cاست؟"}),
    ],
)
def test_a_text_a_list_and_a_table_give_questions_by_name(given: Any, read: dict[str, str]) -> None:
    assert kinds.options("answer", question=given).to_params() == {"question": read}


@pytest.mark.parametrize(
    ("given", "said"),
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
def test_a_wrong_question_is_refused_with_the_reason(given: Any, said: str) -> None:
    with pytest.raises(BadOption) as refused:
        kinds.options("answer", question=given)
    assert str(refused.value).startswith("--question ")
    assert said in str(refused.value)
