"""Models write the answers that transformers' generate does, one prompt at a time, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.specs import Outcome
from docmill.tasks.kinds import answer
from docmill.tasks.kinds.answer import answer_in, asking
from tests.tasks.conftest import Bench, data_of
from tests.tasks.deciding import require_equal
from tests.tasks.reference import generate_texts, write_seq2seq

QUESTIONS = {"a": "What is it?", "b": "For whom is {{it}}?"}
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def lines(descriptions: list[str]) -> list[str]:
    """Return 12 short lines of different lengths."""
    return [" ".join(text.split()[: 4 + number % 9]) for number, text in enumerate(descriptions[:12])]


def answers_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [data_of(outcome)["data"] for outcome in outcomes]


def parse_answers(write: Callable[[], Sequence[str]]) -> list[str | None]:
    return [answer_in(text) for text in write()]


def test_an_encoder_decoder_reads_the_question_before_the_text(t5: Path, lines: list[str], writer: Bench) -> None:
    spec = writer.spec("answer", t5, question=QUESTIONS, max_new_tokens=NEW_TOKENS, beams=1)
    records = answers_of(writer.run(spec, lines))
    for column, question in (("a", "What is it?"), ("b", "For whom is {it}?")):
        inputs = [f"question: {question} context: {line}" for line in lines]
        settings: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "num_beams": 1, "do_sample": False}
        expected = partial(write_seq2seq, t5, inputs, **settings)
        require_equal([record[column] for record in records], partial(parse_answers, expected))
    assert len({str(record) for record in records}) > len(lines) / 4


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoder_is_asked_in_its_chat_template_or_by_a_pattern(
    name: str, decoders: dict[str, Path], lines: list[str], bench: Bench
) -> None:
    chat = name != "gpt2"
    spec = bench.spec("answer", decoders[name], question="{meta.q}", max_new_tokens=NEW_TOKENS)
    questions = [("Who?", line) for line in lines[:6]] + [("What is {it}?", line) for line in lines[6:]]
    records = answers_of(bench.run(spec, [f"{question}\n{line}" for question, line in questions]))
    specs = [asking(spec, question) for question, _ in questions]
    templates = [answer.chat(asking_spec) if chat else answer.completed(asking_spec, False) for asking_spec in specs]
    inputs = [template.fill(line) for template, (_, line) in zip(templates, questions, strict=True)]
    stop = None if chat else "\n"
    expected = partial(generate_texts, decoders[name], inputs, stop=stop, stripped=True, max_new_tokens=NEW_TOKENS)
    require_equal([record["answer"] for record in records], partial(parse_answers, expected))
    assert len({str(record) for record in records}) > 2


def test_every_window_of_a_long_text_is_asked_and_the_first_answer_is_kept(
    t5: Path, descriptions: list[str], bench: Bench
) -> None:
    text = " ".join(descriptions[:3])
    spec = bench.spec("answer", t5, question=QUESTIONS, max_new_tokens=NEW_TOKENS, window_tokens=60)
    with bench.engine._models.hold(spec) as loaded:
        (windows,) = loaded.recipe.cut([text], loaded.backend)
    tokens = [window.encoded.tokens for window in windows if window.encoded is not None]
    assert max(tokens) <= 60
    assert len(windows) >= 6
    (outcome,) = bench.run(spec, [text])
    assert "windowed" in outcome.flags
    second = [number for number, window in enumerate(windows) if window.start == 0][1]
    pieces = [text[window.start : window.end] for window in windows[:second]]
    assert "".join(pieces) == text
    inputs = [f"question: What is it? context: {piece}" for piece in pieces]
    expected = write_seq2seq(t5, inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    (record,) = answers_of([outcome])
    assert record["a"] == next((answer for answer in map(answer_in, expected) if answer is not None), None)
