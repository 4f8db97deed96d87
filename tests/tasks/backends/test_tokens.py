"""Texts are tokenized in portions, and batches are padded."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from docmill.tasks.backends import tokens
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.tokens import Tokens, padded
from tests.tasks.conftest import MARIAN


@pytest.fixture(scope="module")
def marian() -> Tokens:
    with quiet():
        return Tokens(AutoTokenizer.from_pretrained(MARIAN))


def test_many_texts_are_tokenized_in_portions_as_each_text_alone(
    marian: Tokens, french: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [marian.encode([text])[0] for text in french]
    monkeypatch.setattr(tokens, "_PORTION_CHARS", 5_000)
    calls: list[int] = []
    tokenizer = marian.tokenizer

    def counted(texts: list[str], *second: Any, **settings: Any) -> Any:
        calls.append(sum(map(len, texts[:-1])))
        return tokenizer(texts, *second, **settings)

    monkeypatch.setattr(marian, "tokenizer", counted)
    assert marian.encode(french) == expected
    assert len(calls) > 10
    assert max(calls) <= 5_000


def test_a_batch_is_padded_to_its_longest_window(marian: Tokens) -> None:
    batch = padded(marian.encode(["Un paquet.", "Un paquet de plusieurs outils.", ""]), marian)
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert batch["input_ids"].shape == (3, max(lengths))
    assert batch["input_ids"][2].tolist()[lengths[2] :] == [marian.tokenizer.pad_token_id] * (
        max(lengths) - lengths[2]
    )
