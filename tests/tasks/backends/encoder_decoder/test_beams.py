"""The search by beams that drops texts which are done, beside transformers' own on the same batches."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tasks.backends.accelerator import quiet
from tasks.backends.encoder_decoder.searches import shrinking_beams
from tests.tasks.deciding import require_equal

MODEL = Path(__file__).resolve().parents[4] / "examples" / "models" / "synopsis-ddtp"


@pytest.fixture(scope="module")
def batch(descriptions: list[str]) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model, and texts of different lengths as it reads them."""
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        model = AutoModelForSeq2SeqLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    texts = [" ".join(text.split()[: 6 + 2 * number]) for number, text in enumerate(descriptions[:12])]
    return model, dict(tokenizer(texts, return_tensors="pt", padding=True))


@pytest.mark.parametrize(("early", "penalty"), list(product([True, False, "never"], [-1.0, 0.0, 1.0, 2.0])))
def test_a_search_by_beams_is_that_of_generate_whatever_ends_it(
    batch: tuple[Any, dict[str, torch.Tensor]], early: Any, penalty: float
) -> None:
    model, inputs = batch
    settings = {
        "num_beams": 3, "early_stopping": early, "length_penalty": penalty, "max_length": 16,
        "min_length": 4, "no_repeat_ngram_size": 2,
    }  # fmt: skip
    ends = model.generation_config.eos_token_id

    def expected() -> list[list[int]]:
        with torch.inference_mode():
            return [written(ids, ends) for ids in model.generate(**inputs, **settings)]

    with torch.inference_mode():
        actual = model.generate(**inputs, **settings, custom_generate=shrinking_beams)
    require_equal([written(torch.tensor(one.ids), ends) for one in actual], expected)


def written(ids: torch.Tensor, end: int) -> list[int]:
    """The ids up to the first end."""
    some: list[int] = ids.tolist()
    return some[: some.index(end, 1) + 1] if end in some[1:] else some
