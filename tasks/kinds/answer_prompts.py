"""The words with which models that write are asked a question about a text, and the words for "no answer"."""

from __future__ import annotations

from dataclasses import replace

from storage.core.specs import Spec
from storage.steps import templates
from tasks.kinds.base import pattern
from tasks.prompts import Template

# What a model is to write, and what models write that were trained otherwise, where a text has no answer.
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


def asking(spec: Spec, question: str) -> Spec:
    """Return a spec that asks this question of every text."""
    escaped = question.replace("{", "{{").replace("}", "}}")
    return replace(spec, params={**spec.params, templates.QUESTION: {"": escaped}})


def chat(spec: Spec) -> Template:
    """Return the question of a spec that asks only one, for a model that follows instructions.

    The text comes first, so that several questions about a text begin alike.
    """
    return Template(_TOLD, f"\n\nQuestion: {_question(spec)}")


def completed(spec: Spec, shown: bool) -> Template:
    """Return the question of a spec that asks only one, as a pattern that a base model completes."""
    before = pattern("Text", "Answer", _DEMONSTRATIONS if shown else ())
    return Template(before.before, f"\nQuestion: {_question(spec)}{before.after}")


def prefix(question: str) -> str:
    """Return the words before a text for an encoder-decoder, as T5 was trained (Raffel et al. 2020, appendix D)."""
    return f"question: {question} context: "


def answer_in(written: str) -> str | None:
    """Return the answer in a model's output; None if it says that there is none."""
    answer = written.strip()
    return None if not answer or answer.strip(_ENDS).lower() in _NO_ANSWER else answer


def _question(spec: Spec) -> str:
    asked = templates.questions(spec.params)
    assert asked is not None
    (question,) = asked.filled({})
    return question
