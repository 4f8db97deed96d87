"""Answering: for each question, the part of a text that answers it, or the answer that a model writes, or none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from docmill.storage import templates
from docmill.storage.core.normalize import is_printable
from docmill.storage.core.specs import Outcome, ShardSize, Spec
from docmill.storage.errors import StorageError
from docmill.storage.outputs.output_types import PROPERTIES, RECORD
from docmill.storage.templates import parse_question
from docmill.tasks.checks import AS_WRITTEN, NONE
from docmill.tasks.errors import BadOption, CannotServe, PromptTooLong
from docmill.tasks.kinds.base import (
    NOT_FINITE,
    Again,
    BuiltIn,
    Computed,
    Plan,
    TaskKind,
    Traits,
    least,
    pattern,
    require_no_writing,
    windowed,
)
from docmill.tasks.kinds.options import MOST, TEXTS_SCHEMA, Beams, Option, Sampling, shown, wrong_value
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Generated, Head, Output, Spans, SpanScores
from docmill.tasks.prompts import PromptFrame
from docmill.tasks.windows.windows import LEAST_TEXT_TOKENS, Coder, Window, cut, cut_overlapping

if TYPE_CHECKING:
    from docmill.tasks.kinds.answer_spans import Answers

LONGEST_TOKENS = 30
MOST_SPANS = 1_000
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"max_answer_tokens": LONGEST_TOKENS, "no_answer_threshold": 0.0, "always_answer": False}
)
Computation = tuple[Window, Output | None]
_UNNAMED = "answer"  # the name of a question without a name
# The endings of the columns beside an answer.
SCORE, NO_ANSWER, SPANS = "_score", "_no_answer", "_spans"
_NAMED = re.compile(r"(\w+)=(.*)", re.DOTALL)
# The names of a step and of a question make the name of a column, which has at most 63 bytes in PostgreSQL.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}", re.ASCII)
_EXPECTED = 'must be a question, a list of questions, or a table such as { author = "Who wrote it?" }'
# The answer that a model is told to write if a text has none, and answers that other models write then.
UNANSWERABLE = "unanswerable"
_NO_ANSWER = frozenset({UNANSWERABLE, "no answer", "not answerable"})
_ENDS = " \t\n.\"'<>"
_TOLD = (
    "Answer the question about the text below with a short part of the text, and with nothing else. If the text does "
    f"not answer the question, write only: {UNANSWERABLE}\n\nText:\n"
)
_SHOWN = "The museum was founded in 1912 by two brothers who collected clocks. It is open every day except Mondays."
_DEMONSTRATIONS = (
    (f"{_SHOWN}\nQuestion: When was the museum founded?", "in 1912"),
    (f"{_SHOWN}\nQuestion: What does a ticket cost?", UNANSWERABLE),
    (f"{_SHOWN}\nQuestion: Who founded the museum?", "two brothers who collected clocks"),
)


@dataclass(frozen=True)
class NamedQuestions:
    """The questions of a spec by their names, in the order of the windows."""

    names: tuple[str, ...]
    template: templates.Questions

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> NamedQuestions:
        questions = templates.questions(params)
        assert questions is not None
        return cls(tuple(sorted(params[templates.QUESTION])), questions)

    @property
    def of_all_texts(self) -> list[str] | None:
        """The questions if all texts have the same; None if they read metadata."""
        return None if self.template.fields else self.template.filled({})

    def split(self, content: str) -> tuple[list[str], str]:
        """Return the questions about a content, and the text in it."""
        same = self.of_all_texts
        return self.template.split(content) if same is None else (same, content)


@dataclass(frozen=True)
class Answer:
    """Asks each question for every window of a text.

    The best answers follow from the scores of the tokens in overlapping windows. If the model writes, the first
    answer of a window is the text's. ``pairs`` returns the coder that puts a question beside every text; without it,
    a backend finds the answers itself.

    Answers in the text have at most ``longest`` tokens, and the best ``count`` answers are kept. If the null score is
    above the ``threshold``, there is no answer. Without a ``threshold``, there is an answer if the text has any.
    """

    questions: NamedQuestions
    longest: int
    count: int
    threshold: float | None
    pairs: Callable[[str], Coder] | None

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        """Return for each text the windows with the first question, then with the second, and so on.

        Raises PromptTooLong.
        """
        split = [self.questions.split(text) for text in texts]
        if self.pairs is None:
            return [of_text for _, text in split for of_text in cut([text], coder)]
        distinct = sorted({question for questions, _ in split for question in questions})
        windows: dict[tuple[int, str], list[Window]] = {}
        for question in distinct:
            beside = self.pairs(question)
            if (problem := room_problem(question, beside)) is not None:
                raise PromptTooLong(problem)
            places = [number for number, (questions, _) in enumerate(split) if question in questions]
            cuts = self._cut([split[number][1] for number in places], beside)
            windows |= {(number, question): of_text for number, of_text in zip(places, cuts, strict=True)}
        return [
            [window for question in questions for window in windows[number, question]]
            for number, (questions, _) in enumerate(split)
        ]

    def _cut(self, texts: Sequence[str], beside: Coder) -> list[list[Window]]:
        placed = beside.encode([""])[0].places is not None
        return cut_overlapping(texts, beside, self.longest) if placed else cut(texts, beside)

    def join(self, computed: Computed) -> Outcome | Again:
        _, text = self.questions.split(computed.text)
        computations = [*zip(computed.windows, computed.outputs, strict=True)]
        if not all(output.finite for _, output in computations if isinstance(output, SpanScores)):
            return computed.failed(NOT_FINITE)
        each = [computations] * len(self.questions.names) if self.pairs is None else _by_question(computations)
        record: dict[str, Any] = {}
        sure: list[float | None] = []
        flags = list(windowed(computed.windows))
        for name, of_question in zip(self.questions.names, each, strict=True):
            if (written := _find_written(of_question)) is not None:
                record[name], is_truncated = written
                flags += ["output_truncated"] if is_truncated else []
            else:
                answers = self._find(text, of_question)
                record |= self._fields(name, text, answers)
                score = record[name + SCORE]
                sure.append(answers.no_answer if score is None else score)
        return computed.done(RECORD.stored(record), flags=dict.fromkeys(flags), confidence=least(sure))

    def _find(self, text: str, computations: Sequence[Computation]) -> Answers:
        """Return the answers that a backend found, or the best answers in the scores of a text's windows."""
        from docmill.tasks.kinds.answer_spans import answers_of_backend, best_answers  # imports numpy

        if any(isinstance(output, Spans) for _, output in computations):
            return answers_of_backend(computations)
        windows = [
            (window.places, output)
            for window, output in computations
            if window.places is not None and isinstance(output, SpanScores)
        ]
        assert len(windows) == len(computations)
        with_null = self.threshold is not None
        return best_answers(text, windows, longest=self.longest, count=self.count, with_null=with_null)

    def _fields(self, name: str, text: str, answers: Answers) -> dict[str, Any]:
        """Return the fields of a record for the answers to a question."""
        answer = answers.answer(self.threshold or 0.0)
        spans = [
            {"text": text[span.start : span.end], "start": span.start, "end": span.end, "score": span.score}
            for span in answers.spans
        ]
        return {
            name: None if answer is None else text[answer.start : answer.end],
            name + SCORE: None if answer is None else answer.score,
            **({} if self.threshold is None else {name + NO_ANSWER: answers.no_answer}),
            name + SPANS: spans,
        }


def require_room(params: Mapping[str, Any], pairs: Callable[[str], Coder]) -> None:
    """Raise CannotServe if a question of a spec leaves no room for text. Questions with metadata are unknown yet."""
    if templates.questions(params) is None:  # models are also described without a question
        return
    for question in NamedQuestions.of(params).of_all_texts or ():
        if (problem := room_problem(question, pairs(question))) is not None:
            raise CannotServe(problem)


def room_problem(question: str, beside: Coder) -> str | None:
    """Return the reason why no text fits in a window beside a question; None if a text fits."""
    if not question:
        return "The question is empty for this document: it lacks the metadata that the question reads."
    taken, limit = beside.encode([""])[0].tokens, beside.limit_tokens
    if taken + LEAST_TEXT_TOKENS <= limit:
        return None
    return (
        f"A question takes {taken:,} of the {limit:,} tokens of a window, which leaves no room for text: shorten the "
        "question, or give a larger --window-tokens or none."
    )


def _by_question(computations: Sequence[Computation]) -> list[list[Computation]]:
    """Return the windows of each question. Its first window begins with the text, or with the text's first token."""
    begun = 0
    numbers = [begun := begun + _begins(window) for window, _ in computations]
    numbered = zip(numbers, computations, strict=True)
    return [[computation for _, computation in group] for _, group in groupby(numbered, key=lambda pair: pair[0])]


def _begins(window: Window) -> bool:
    return window.start == 0 if window.places is None else window.places.first == 0


def _find_written(computations: Sequence[Computation]) -> tuple[str | None, bool] | None:
    """Return the first answer that a model wrote for a text's windows, and True if it is truncated.

    None if the model does not write.
    """
    written = [output for _, output in computations if isinstance(output, Generated)]
    answers = ((answer_in(output.text), output.truncated) for output in written)
    first = next((pair for pair in answers if pair[0] is not None), None)
    return first or ((None, False) if written else None)


def questions_by_name(value: object) -> dict[str, str]:
    """Return questions by their names. A text may begin with the name: ``author=Who wrote it?``.

    Raises PydanticCustomError. Its message follows the option's name.
    """
    pairs = [*_pairs(value)]
    questions: dict[str, str] = {}
    for place, (name, question) in enumerate(pairs, 1):
        if not isinstance(question, str):
            raise wrong_value(f"{_EXPECTED}; {shown(question)} is none of these")
        named = name or (_UNNAMED if len(pairs) == 1 else f"{_UNNAMED}_{place}")
        read = " ".join(question.split())
        if not _NAME.fullmatch(named):
            raise wrong_value(
                f"has the name {shown(named)}; a name has up to 30 small letters, digits and _, as in "
                "'author=Who wrote it?'"
            )
        if not read:
            raise wrong_value(f"has no words for {named}")
        if not is_printable(read):
            raise wrong_value(f"has a character that cannot be printed: {shown(ascii(read))}")
        if named in questions:
            raise wrong_value(f"names {named} twice")
        try:
            parse_question(read)
        except StorageError as error:
            raise wrong_value(f"{shown(read)}: {error}".removesuffix(".")) from error
        questions[named] = read
    if not questions:
        raise wrong_value("holds no question")
    _check_columns(questions)
    return questions


def _pairs(value: object) -> Iterable[tuple[str | None, object]]:
    if isinstance(value, Mapping):
        return [(str(name), question) for name, question in value.items()]
    if not isinstance(value, str | list | tuple):
        raise wrong_value(f"{_EXPECTED}, not {shown(value)}")
    texts = [value] if isinstance(value, str) else value
    matches = [_NAMED.match(text) if isinstance(text, str) else None for text in texts]
    return [(match[1], match[2]) if match else (None, text) for match, text in zip(matches, texts, strict=True)]


def _check_columns(names: Iterable[str]) -> None:
    """Raise PydanticCustomError if the answers to two questions would have a column of the same name."""
    taken: dict[str, str] = {}
    for name in names:
        for column in _columns(name, {}, writes=False):
            if (other := taken.setdefault(column, name)) != name:
                raise wrong_value(f"names {other} and {name}, which both have a column {column}; choose another name")


def asking(spec: Spec, question: str) -> Spec:
    """Return a spec with this question for every text."""
    escaped = question.replace("{", "{{").replace("}", "}}")
    return replace(spec, params={**spec.params, templates.QUESTION: {"": escaped}})


def chat(spec: Spec) -> PromptFrame:
    """Return the only question of a spec, for a model that follows instructions.

    The text comes first, so that the prompts of several questions about a text share their start.
    """
    return PromptFrame(_TOLD, f"\n\nQuestion: {_question(spec)}")


def completed(spec: Spec, shown: bool) -> PromptFrame:
    """Return the only question of a spec, as a pattern that a base model completes."""
    before = pattern("Text", "Answer", _DEMONSTRATIONS if shown else ())
    return PromptFrame(before.before, f"\nQuestion: {_question(spec)}{before.after}")


def prefix(question: str) -> str:
    """Return the words before a text for an encoder-decoder, as T5 was trained (Raffel et al. 2020, appendix D)."""
    return f"question: {question} context: "


def answer_in(written: str) -> str | None:
    """Return the answer in a model's output; None if the output says that there is none."""
    answer = written.strip()
    return None if not answer or answer.strip(_ENDS).lower() in _NO_ANSWER else answer


def _question(spec: Spec) -> str:
    (question,) = NamedQuestions.of(spec.params).template.filled({})
    return question


class AnswerOptions(Sampling):
    """Options of `answer`."""

    defaults = _DEFAULTS
    question: Annotated[
        dict[str, str] | None,
        BeforeValidator(questions_by_name),
        Field(
            description="Question about each document, which may read {meta.FIELD}; may be repeated, with names: "
            "author='Who wrote it?'",
            examples=[{"author": "Who wrote it?", "year": "When was {meta.title} written?"}],
        ),
        WithJsonSchema(TEXTS_SCHEMA),
        Option(metavar="[NAME=]QUESTION", asks=True),
    ] = None
    max_answer_tokens: Annotated[
        int | None,
        Field(ge=1, le=1_000, description=f"Longest answer in the text, in tokens.  [default: {LONGEST_TOKENS}]"),
        Option(only=Family.ENCODER, instead="use --max-new-tokens"),
    ] = None
    no_answer_threshold: Annotated[
        float | None,
        Field(
            ge=-MOST,
            le=MOST,
            description="Give no answer if the null score exceeds the best answer's score by more than this.  "
            "[default: 0]",
        ),
        Option(metavar="X", only=Family.ENCODER),
    ] = None
    always_answer: Annotated[
        bool | None,
        Field(description="Give the best answer even if the model finds none."),
        Option(only=Family.ENCODER),
    ] = None
    beams: Beams = None
    top_k: Annotated[
        int | None,
        Field(
            ge=0, le=MOST, description="Keep the N best answers in the text, or sample from the N likeliest tokens."
        ),
    ] = None


def _params(plan: Plan) -> dict[str, Any]:
    """Return the properties of the records. Raises BadOption without a question, and for contradicting options."""
    options = plan.options
    if templates.QUESTION not in options:
        raise BadOption("answer needs --question, such as --question 'Who wrote it?'.")
    if "always_answer" in options and "no_answer_threshold" in options:
        raise BadOption("--always-answer and --no-answer-threshold do not go together: give one of them.")
    writes = plan.family in {Family.SEQ2SEQ, Family.DECODER}
    if not writes and not 1 <= options.get("top_k", 1) <= MOST_SPANS:
        raise BadOption(f"--top-k must be between 1 and {MOST_SPANS:,} for answers in the text.")
    if plan.family is Family.ENCODER:
        require_no_writing(plan, "finds answers in the text", shared={"top_k"})
    columns = [
        column for name in options[templates.QUESTION] for column in _columns(name, options, writes=writes).items()
    ]
    return {PROPERTIES: dict(columns)}


def _columns(name: str, options: Mapping[str, Any], *, writes: bool) -> dict[str, Any]:
    """Return the JSON Schema of each column of a question's answer."""
    number = {"type": ["number", "null"]}
    answer = {name: {"type": ["string", "null"]}}
    if writes:
        return answer
    no_answer = {} if "always_answer" in options else {name + NO_ANSWER: number}
    return {**answer, name + SCORE: number, **no_answer, name + SPANS: {"type": "array"}}


def _writes(spec: Spec) -> bool:
    """Return True if a model writes the answers. Otherwise they are spans of the text."""
    return not any(name.endswith(SPANS) for name in spec.params.get(PROPERTIES, {}))


def _recipe(spec: Spec, traits: Traits) -> Answer:
    options = {**_DEFAULTS, "top_k": 1, **spec.params}
    threshold = None if options["always_answer"] else options["no_answer_threshold"]
    questions = NamedQuestions.of(spec.params)
    return Answer(questions, options["max_answer_tokens"], options["top_k"], threshold, traits.pairs)


ANSWER = TaskKind(
    name="answer",
    summary="Answer questions about each document.",
    example="contracts/ --question 'Who signed?'",
    options=AnswerOptions,
    output=RECORD,
    families=MappingProxyType(
        {Family.ENCODER: Head.ANSWERING, Family.SEQ2SEQ: Head.SEQ2SEQ_TEXT, Family.DECODER: Head.CAUSAL_TEXT}
    ),
    recipe=_recipe,
    params=_params,
    default_model="answers-ddtp",
    other_models=lambda _options: ("deepset/roberta-base-squad2", "deepset/tinyroberta-squad2"),
    built_in=BuiltIn(chat, completed, settings="question-answering"),
    checks=lambda spec, _direction: AS_WRITTEN if _writes(spec) else NONE,
    shard=ShardSize(contents=128, chars=150_000),  # between those of kinds that read and of kinds that write
)
