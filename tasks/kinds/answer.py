"""Answering: for each question the part of a text that answers it, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from storage.core.kinds import READING_SIZE
from storage.core.outcomes import Outcome
from storage.core.specs import Spec
from storage.outputs.output_types import PROPERTIES, RECORD
from storage.steps import templates
from tasks.errors import BadOption, PromptTooLong
from tasks.heads import Head
from tasks.kinds.answer_spans import Answers, ScoredWindow, Span, best_answers
from tasks.kinds.base import Again, Computed, Plan, TaskKind, Traits, windowed
from tasks.kinds.options import MOST, TOP_K, Option, Windowed
from tasks.kinds.questions import NO_ANSWER, SCORE, SPANS, questions_by_name
from tasks.models.families import Family
from tasks.outputs import Output, Spans, SpanScores
from tasks.windows.overlapping import cut_overlapping
from tasks.windows.windows import Coder, Window, cut

LONGEST_TOKENS = 30
LEAST_TEXT_TOKENS = 8
MOST_SPANS = 1_000
# Values that stand for an option that was not given, so that both make the same spec.
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"max_answer_tokens": LONGEST_TOKENS, "no_answer_threshold": 0.0, "always_answer": False, "top_k": 1}
)
_TEXT = {"type": "string"}
_QUESTIONS_SCHEMA = {
    "anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "object", "additionalProperties": _TEXT}]
}


@dataclass(frozen=True)
class Questions:
    """The questions of a spec by their names, in the order in which they are asked."""

    names: tuple[str, ...]
    asked: templates.Questions

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Questions:
        asked = templates.questions(params)
        assert asked is not None
        return cls(tuple(sorted(params[templates.QUESTION])), asked)

    @property
    def of_all_texts(self) -> list[str] | None:
        """The questions, if they are the same for all texts; None if they read metadata."""
        return None if self.asked.fields else self.asked.filled({})

    def split(self, content: str) -> tuple[list[str], str]:
        """Return the questions about a content, and the text in it."""
        same = self.of_all_texts
        return self.asked.split(content) if same is None else (same, content)


@dataclass(frozen=True)
class Answering:
    """Answers of at most ``longest`` tokens, the best ``count``, none if the null score is over the ``threshold``.

    Without a ``threshold`` there is always an answer, if the text has any.
    """

    longest: int
    count: int
    threshold: float | None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Answering:
        given = {**_DEFAULTS, **params}
        threshold = None if given["always_answer"] else given["no_answer_threshold"]
        return cls(given["max_answer_tokens"], given["top_k"], threshold)

    def found(self, text: str, windows: Sequence[ScoredWindow]) -> Answers:
        return best_answers(
            text, windows, longest=self.longest, count=self.count, with_null=self.threshold is not None
        )

    def columns(self, name: str, text: str, answers: Answers) -> dict[str, Any]:
        """Return the columns of a question's answer."""
        answer = answers.answer(self.threshold or 0.0)
        spans = [
            {"text": text[one.start : one.end], "start": one.start, "end": one.end, "score": one.score}
            for one in answers.spans
        ]
        return {
            name: None if answer is None else text[answer.start : answer.end],
            name + SCORE: None if answer is None else answer.score,
            **({} if self.threshold is None else {name + NO_ANSWER: answers.no_answer}),
            name + SPANS: spans,
        }


@dataclass(frozen=True)
class Extractive:
    """Cuts a text into windows that overlap, once for each question, and finds the best answers in their scores.

    ``pairs`` gives the coder that puts a question beside every text; without it a backend finds the answers itself.
    """

    questions: Questions
    answering: Answering
    pairs: Callable[[str], Coder] | None

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        """Return for each text the windows with the first question, then those with the second, and so on.

        Raises PromptTooLong.
        """
        split = [self.questions.split(text) for text in texts]
        if self.pairs is None:
            return [found for _, text in split for found in cut([text], coder)]
        asked = sorted({question for questions, _ in split for question in questions})
        windows: dict[tuple[int, str], list[Window]] = {}
        for question in asked:
            beside = self.pairs(question)
            if (problem := room_problem(question, beside)) is not None:
                raise PromptTooLong(problem)
            places = [number for number, (questions, _) in enumerate(split) if question in questions]
            found = cut_overlapping([split[number][1] for number in places], beside, self.answering.longest)
            windows |= {(number, question): one for number, one in zip(places, found, strict=True)}
        return [
            [window for question in questions for window in windows[number, question]]
            for number, (questions, _) in enumerate(split)
        ]

    def join(self, computed: Computed) -> Outcome | Again:
        _, text = self.questions.split(computed.text)
        outputs = [*zip(computed.windows, computed.outputs, strict=True)]
        if any(isinstance(output, Spans) for _, output in outputs):
            answers = [_found_by_backend(outputs)] * len(self.questions.names)
        else:
            scored = [_scored(window, output) for window, output in outputs]
            if not all(one.scores.finite for one in scored):
                return computed.failed("The model's scores for this text are not finite.")
            answers = [self.answering.found(text, windows) for windows in _by_question(scored)]
        record: dict[str, Any] = {}
        for name, found in zip(self.questions.names, answers, strict=True):
            record |= self.answering.columns(name, text, found)
        return computed.done(data=dict(RECORD.stored(record).data or {}), flags=windowed(computed.windows))


def room_problem(question: str, beside: Coder) -> str | None:
    """Return the reason why no text fits a window beside a question; None if one does."""
    if not question:
        return "The question is empty for this document: it lacks the metadata that the question reads."
    taken, limit = beside.encode([""])[0].tokens, beside.limit_tokens
    if taken + LEAST_TEXT_TOKENS <= limit:
        return None
    return (
        f"A question takes {taken:,} of the {limit:,} tokens of a window, which leaves no room for text: shorten the "
        "question, or give a larger --window-tokens or none."
    )


def _scored(window: Window, output: Output | None) -> ScoredWindow:
    assert isinstance(output, SpanScores)
    assert window.encoded is not None
    places = window.encoded.places
    assert places is not None
    return ScoredWindow(places.first, places.starts, places.ends, output)


def _by_question(scored: Sequence[ScoredWindow]) -> list[list[ScoredWindow]]:
    """Return the windows of each question: the first of them begins with the first token of the text."""
    begun = 0
    numbers = [begun := begun + (one.first == 0) for one in scored]
    numbered = zip(numbers, scored, strict=True)
    return [[one for _, one in group] for _, group in groupby(numbered, key=lambda pair: pair[0])]


def _found_by_backend(outputs: Sequence[tuple[Window, Output | None]]) -> Answers:
    """Return the answers that a backend found itself; their places are those in the window."""
    spans = [
        Span(window.start + one.start, window.start + one.end, 0.0, one.score)
        for window, output in outputs
        if isinstance(output, Spans)
        for one in output.spans
    ]
    return Answers(tuple(spans[:1]), None, 0.0)


class AnswerOptions(Windowed):
    """Options of `answer`."""

    question: Annotated[
        dict[str, str] | None,
        BeforeValidator(questions_by_name),
        Field(
            description="Question about each document, which may read {meta.FIELD}; may be repeated, with names: "
            "author='Who wrote it?'",
            examples=[{"author": "Who wrote it?", "year": "When was {meta.title} written?"}],
        ),
        WithJsonSchema(_QUESTIONS_SCHEMA),
        Option(metavar="[NAME=]QUESTION", asks=True),
    ] = None
    max_answer_tokens: Annotated[
        int | None,
        Field(ge=1, le=1_000, description=f"Longest answer in the text, in tokens.  [default: {LONGEST_TOKENS}]"),
    ] = None
    no_answer_threshold: Annotated[
        float | None,
        Field(
            ge=-MOST,
            le=MOST,
            description="Give no answer if the null score is higher than that of the best answer by more than this.  "
            "[default: 0]",
        ),
        Option(metavar="X"),
    ] = None
    always_answer: Annotated[
        bool | None, Field(description="Give the best answer also where the model thinks that there is none.")
    ] = None
    top_k: Annotated[int | None, Field(ge=0, le=MOST, description=TOP_K)] = None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in super().given().items() if value != _DEFAULTS.get(name)}


def _params(plan: Plan) -> dict[str, Any]:
    """Return the properties of the records. Raises BadOption without a question, and for options that contradict."""
    given = plan.given
    if templates.QUESTION not in given:
        raise BadOption("answer needs --question, such as --question 'Who wrote it?'.")
    if "always_answer" in given and "no_answer_threshold" in given:
        raise BadOption("--always-answer and --no-answer-threshold do not go together: give one of them.")
    if not 1 <= given.get("top_k", 1) <= MOST_SPANS:
        raise BadOption(f"--top-k must be between 1 and {MOST_SPANS:,} for answer.")
    properties: dict[str, Any] = {}
    for name in given[templates.QUESTION]:
        properties[name] = {"type": ["string", "null"]}
        properties[name + SCORE] = {"type": ["number", "null"]}
        if "always_answer" not in given:
            properties[name + NO_ANSWER] = {"type": ["number", "null"]}
        properties[name + SPANS] = {"type": "array"}
    return {PROPERTIES: properties}


def _recipe(spec: Spec, traits: Traits) -> Extractive:
    return Extractive(Questions.of(spec.params), Answering.of(spec.params), traits.pairs)


ANSWER = TaskKind(
    name="answer",
    summary="Answer questions about each document with a part of its text.",
    options=AnswerOptions,
    output=RECORD,
    families=MappingProxyType({Family.ENCODER: Head.ANSWERING}),
    recipe=_recipe,
    params=_params,
    shard=READING_SIZE,
    sample_texts=64,
)
