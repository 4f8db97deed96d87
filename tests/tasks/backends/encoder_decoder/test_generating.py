"""`generate` with encoder-decoders writes what transformers' generate does over prompts, in float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.conftest import Bench
from tests.tasks.deciding import require_equal
from tests.tasks.reference import write_seq2seq

NEW_TOKENS = 12


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        (None, {"beams": 1}),
        ("translate English to German: {text}", {"beams": 3, "early_stopping": True}),
        ("  {text}\n Answer: ", {"beams": 1, "no_repeat_ngram_size": 2}),
    ],
)
def test_outputs_over_a_prompt_are_those_of_generate(
    bench: Bench, t5: Path, descriptions: list[str], prompt: str | None, options: dict[str, Any]
) -> None:
    texts = [" ".join(text.split()[: 3 + 4 * (number % 4)]) + " " for number, text in enumerate(descriptions[:12])]
    prompt_option = {} if prompt is None else {"prompt": prompt}
    spec = bench.spec("generate", t5, max_new_tokens=NEW_TOKENS, **prompt_option, **options)
    settings = {"num_beams" if option == "beams" else option: value for option, value in options.items()}
    inputs = [(prompt or "{text}").replace("{text}", text) for text in texts]
    actual = bench.write(spec, texts)
    expected = require_equal(
        actual, partial(write_seq2seq, t5, inputs, stripped=False, max_new_tokens=NEW_TOKENS, **settings)
    )
    assert len(set(expected)) > 1
