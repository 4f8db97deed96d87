"""Answers that models write are those of transformers' own generate, one prompt at a time, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from docmill.storage.core.specs import Outcome
from docmill.tasks.kinds import answer
from docmill.tasks.kinds.answer import answer_in, asking
from tests.tasks import architectures
from tests.tasks.conftest import Bench, data_of
from tests.tasks.deciding import require_equal
from tests.tasks.reference import seq2seq_texts, written

QUESTIONS = {"a": "What is it?", "b": "For whom is {{it}}?"}
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def lines(descriptions: list[str]) -> list[str]:
    """Short single lines of different lengths."""
    return [" ".join(text.split()[: 4 + number % 9]) for number, text in enumerate(descriptions[:12])]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    torch.manual_seed(11)
    return architectures.t5(tmp_path_factory.mktemp("writers") / "t5", descriptions[:40], initializer_factor=2.0)


def answers(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [data_of(outcome)["data"] for outcome in outcomes]


def answers_in(written: Callable[[], Sequence[str]]) -> list[str | None]:
    return [answer_in(text) for text in written()]


def test_an_encoder_decoder_reads_the_question_before_the_text(t5: Path, lines: list[str], writer: Bench) -> None:
    spec = writer.spec("answer", str(t5), question=QUESTIONS, max_new_tokens=NEW_TOKENS, beams=1)
    found = answers(writer.run(spec, lines))
    for column, question in (("a", "What is it?"), ("b", "For whom is {it}?")):
        inputs = [f"question: {question} context: {line}" for line in lines]
        asked: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "num_beams": 1, "do_sample": False}
        wanted = partial(seq2seq_texts, t5, inputs, **asked)
        require_equal([one[column] for one in found], partial(answers_in, wanted))
    assert len({str(one) for one in found}) > len(lines) / 4


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoder_is_asked_in_its_chat_template_or_by_a_pattern(
    name: str, made: dict[str, Path], lines: list[str], bench: Bench
) -> None:
    chat = name != "gpt2"
    spec = bench.spec("answer", str(made[name]), question="{meta.q}", max_new_tokens=NEW_TOKENS)
    asked = [("Who?", line) for line in lines[:6]] + [("What is {it}?", line) for line in lines[6:]]
    found = answers(bench.run(spec, [f"{question}\n{line}" for question, line in asked]))
    told = [asking(spec, question) for question, _ in asked]
    templates = [answer.chat(one) if chat else answer.completed(one, False) for one in told]
    inputs = [template.fill(line) for template, (_, line) in zip(templates, asked, strict=True)]
    stop = None if chat else "\n"
    wanted = partial(written, made[name], inputs, chat=chat, stop=stop, stripped=True, max_new_tokens=NEW_TOKENS)
    require_equal([one["answer"] for one in found], partial(answers_in, wanted))
    assert len({str(one) for one in found}) > 2


def test_every_window_of_a_long_text_is_asked_and_the_first_answer_is_kept(
    t5: Path, descriptions: list[str], bench: Bench
) -> None:
    text = " ".join(descriptions[:3])
    spec = bench.spec("answer", str(t5), question=QUESTIONS, max_new_tokens=NEW_TOKENS, window_tokens=60)
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
    wanted = seq2seq_texts(t5, inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    (found,) = answers([outcome])
    assert found["a"] == next((answer for answer in map(answer_in, wanted) if answer is not None), None)
