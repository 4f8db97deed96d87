"""`generate` with encoder-decoders: the outputs of transformers' generate over prompts, in float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tasks import architectures
from tests.tasks.conftest import Bench
from tests.tasks.deciding import require_equal
from tests.tasks.reference import seq2seq_texts

NEW_TOKENS = 12


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    """A T5 with larger weights than before training, where it writes the same token for every text."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("models") / "t5"
    return architectures.t5(folder, descriptions[:40], initializer_factor=2.0, tie_word_embeddings=False)


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        (None, {"beams": 1}),
        ("translate English to German: {text}", {"beams": 3, "early_stopping": True}),
        ("  {text}\n Answer: ", {"beams": 1, "no_repeat_ngram_size": 2}),
    ],
)
def test_outputs_over_a_prompt_are_those_of_generate(
    bench: Bench,
    t5: Path,
    descriptions: list[str],
    prompt: str | None,
    options: dict[str, Any],
) -> None:
    texts = [" ".join(text.split()[: 3 + 4 * (number % 4)]) + " " for number, text in enumerate(descriptions[:12])]
    given = {} if prompt is None else {"prompt": prompt}
    spec = bench.spec("generate", str(t5), max_new_tokens=NEW_TOKENS, **given, **options)
    asked = {"num_beams" if option == "beams" else option: value for option, value in options.items()}
    inputs = [(prompt or "{text}").replace("{text}", text) for text in texts]
    found = [outcome.text for outcome in bench.run(spec, texts)]
    expected = require_equal(
        found, partial(seq2seq_texts, t5, inputs, stripped=False, max_new_tokens=NEW_TOKENS, **asked)
    )
    assert len(set(expected)) > 1
