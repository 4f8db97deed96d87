"""Encoders without padding compute what the model's own code does for one text at a time."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from docmill.tasks.backends import Assignment, accelerator
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder import packed
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder.packed import OneDnnLinear, PackedEncoder, attend, multiplies, packs
from docmill.tasks.engine.engine import Engine
from docmill.tasks.outputs import Head
from docmill.tasks.windows.windows import Encoded
from tests.tasks.architectures import ENCODER_SIZES
from tests.tasks.conftest import Bench, outcomes_of, vectors_of
from tests.tasks.reference import load_sentence_transformer

DISTILLED: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
# Padding has the index 1 in RoBERTa. Texts may hold it as a token.
TEXTS = [[0, 5, 1, 9, 2], [0, 7, 2], [0, 4, 2], [0, *range(3, 40), 2], [0, 1, 1, 2, 8]]
CONFIGS = {
    "bert": transformers.BertConfig(vocab_size=50, **ENCODER_SIZES),
    "bert-tanh": transformers.BertConfig(vocab_size=50, hidden_act="gelu_new", **ENCODER_SIZES),
    "bert-relu": transformers.BertConfig(vocab_size=50, hidden_act="relu", **ENCODER_SIZES),
    "roberta": transformers.RobertaConfig(vocab_size=50, pad_token_id=1, **ENCODER_SIZES),
    "xlm-roberta": transformers.XLMRobertaConfig(vocab_size=50, pad_token_id=1, **ENCODER_SIZES),
    "camembert": transformers.CamembertConfig(vocab_size=50, pad_token_id=1, **ENCODER_SIZES),
    "distilbert": transformers.DistilBertConfig(vocab_size=50, **DISTILLED),
}


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("round_up", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_states_without_padding_are_the_models_own(name: str, round_up: bool, first_only: bool) -> None:
    torch.manual_seed(3)
    with quiet(), torch.inference_mode():
        model = transformers.AutoModel.from_config(CONFIGS[name]).eval()
        expected = [model(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in TEXTS]
        assert packs(model)
        encoder = PackedEncoder(model, first_only=first_only, round_up=round_up)
        actual = encoder([Encoded(len(ids), {"input_ids": ids}) for ids in TEXTS])
    lengths = [1 if first_only else len(ids) for ids in TEXTS]
    assert actual["attention_mask"].sum(1).tolist() == lengths
    assert actual["token_embeddings"].shape[1] == actual["attention_mask"].shape[1] == max(lengths)
    for length, states, expected_states in zip(lengths, actual["token_embeddings"], expected, strict=True):
        assert torch.allclose(states[:length], expected_states[:length], atol=2e-6)
        assert not states[length:].any()


# Scores round to 8 bits, and those of queries and keys of size 3 have a standard deviation of 9.
@pytest.mark.parametrize(("size", "tolerance"), [(1.0, 0.006), (3.0, 0.015)])
@pytest.mark.parametrize(("texts", "tokens"), [(1, 1), (70, 16), (3, 48), (2, 300)])
def test_attention_in_bfloat16_is_that_of_torch(texts: int, tokens: int, size: float, tolerance: float) -> None:
    projected = _project(texts, tokens, size)
    actual = attend(projected).float()
    expected = functional.scaled_dot_product_attention(*projected.float())
    assert actual.shape == expected.shape
    assert (actual - expected).norm() < tolerance * expected.norm()


def test_scores_that_are_too_many_or_too_large_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for query in (30.0, -30.0):  # all scores are 160 or -160
        projected = _project(3, 48, 1.0)
        projected[0], projected[1] = query, 1.0
        assert torch.equal(attend(projected), functional.scaled_dot_product_attention(*projected))
    projected = _project(3, 48, 1.0)
    monkeypatch.setattr(packed, "_SCORES_OF_TEXT", 4 * 48 * 48)
    assert not torch.equal(attend(projected), functional.scaled_dot_product_attention(*projected))
    monkeypatch.setattr(packed, "_SCORES_OF_TEXT", 4 * 48 * 48 - 1)
    assert torch.equal(attend(projected), functional.scaled_dot_product_attention(*projected))


def _project(texts: int, tokens: int, size: float) -> torch.Tensor:
    """Return random queries and keys of a size, and values, in bfloat16: (3, texts, heads, tokens, dim of a head)."""
    torch.manual_seed(5)
    projected = torch.randn(3, texts, 4, tokens, 32)
    projected[:2] *= size
    return projected.bfloat16()


def test_models_of_other_designs_are_computed_by_their_own_code() -> None:
    configs = [
        transformers.MPNetConfig(vocab_size=50, **ENCODER_SIZES),
        transformers.BertConfig(vocab_size=50, hidden_act="silu", **ENCODER_SIZES),
        transformers.BertConfig(vocab_size=50, is_decoder=True, **ENCODER_SIZES),
    ]
    with quiet():
        models = [transformers.AutoModel.from_config(config) for config in configs]
        plain = transformers.AutoModel.from_config(CONFIGS["bert"])
    assert not any(packs(model) for model in models)
    assert packs(plain)


def test_texts_are_computed_without_padding_where_onednn_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    native = {"cpu": False}
    monkeypatch.setattr(accelerator, "native_bfloat16", native.__getitem__)
    precisions = (torch.float32, torch.bfloat16, torch.float16)
    assert [multiplies("cpu", precision) for precision in precisions] == [True, False, False]
    native["cpu"] = True
    assert [multiplies("cpu", precision) for precision in precisions] == [True, True, False]
    assert not any(multiplies("cuda:0", precision) for precision in precisions)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_a_model_that_passes_its_comparison_is_computed_without_padding(bench: Bench, dtype: str) -> None:
    spec = bench.spec("embed", "minilm", dtype=dtype)
    backend = EncoderBackend(Assignment(spec, bench.folder(spec), "cpu", bench.cache_dir, Head.POOLING))
    assert isinstance(backend._states_of, PackedEncoder)


def _of_other_numbers(self: OneDnnLinear, residual: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return residual + 0.9 * residual.roll(1)


def _of_another_signature(self: OneDnnLinear, *arguments: object) -> torch.Tensor:
    raise RuntimeError("mkldnn::_linear_pointwise() is missing value for argument 'algorithm'")


def _not_a_number(self: OneDnnLinear, residual: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return residual * float("nan")


@pytest.mark.parametrize("broken", [_of_other_numbers, _of_another_signature, _not_a_number])
def test_a_model_is_computed_by_its_own_code_if_the_products_are_wrong(
    broken: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(OneDnnLinear, "added_to", broken)
    spec = bench.spec("embed", "minilm")
    folder = bench.folder(spec)
    backend = EncoderBackend(Assignment(spec, folder, "cpu", bench.cache_dir, Head.POOLING))
    assert not isinstance(backend._states_of, PackedEncoder)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["packed_left_out"]
    model = load_sentence_transformer(folder)
    texts = ["Both of these", "are computed with padding by its own code."]
    with contextlib.closing(Engine(lambda _: backend)) as engine:
        engine.start()
        actual = vectors_of(outcomes_of(engine, spec, texts))
    expected = model.encode(texts, show_progress_bar=False)
    assert np.allclose(actual, expected, atol=1e-6)
