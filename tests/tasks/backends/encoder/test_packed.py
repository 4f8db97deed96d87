"""Encoders computed without padding give what the model's own code gives for one text at a time."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from torch.nn import functional

from docmill.tasks.backends import Assignment, accelerator
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder.packed import (
    FLASH,
    ON_AMX,
    ONEDNN,
    Kernels,
    OneDnnLinear,
    kernels_for,
    packed,
    packs,
)
from docmill.tasks.engine.engine import Engine
from docmill.tasks.outputs import Head
from docmill.tasks.windows.windows import Encoded
from tests.tasks.conftest import Bench
from tests.tasks.test_architectures import vectors

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DISTILLED: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
# Of RoBERTa's kind, padding has the index 1: texts hold it, and other tokens.
TEXTS = [[0, 5, 1, 9, 2], [0, 7, 2], [0, 4, 2], [0, *range(3, 40), 2], [0, 1, 1, 2, 8]]
CONFIGS = {
    "bert": transformers.BertConfig(vocab_size=50, **SIZES),
    "bert-tanh": transformers.BertConfig(vocab_size=50, hidden_act="gelu_new", **SIZES),
    "bert-relu": transformers.BertConfig(vocab_size=50, hidden_act="relu", **SIZES),
    "roberta": transformers.RobertaConfig(vocab_size=50, pad_token_id=1, **SIZES),
    "xlm-roberta": transformers.XLMRobertaConfig(vocab_size=50, pad_token_id=1, **SIZES),
    "camembert": transformers.CamembertConfig(vocab_size=50, pad_token_id=1, **SIZES),
    "distilbert": transformers.DistilBertConfig(vocab_size=50, **DISTILLED),
}


def _attention_of_each(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    same_starts: torch.Tensor,
    longest: int,
    same_longest: int,
) -> torch.Tensor:
    """Compute attention for texts of any lengths, as flash attention does on a GPU."""
    assert starts.dtype == torch.int32
    assert longest == int(starts.diff().max())
    mixed = []
    for first, end in itertools.pairwise(starts.tolist()):
        one, other, third = (each[first:end].transpose(0, 1) for each in (query, key, value))
        mixed.append(functional.scaled_dot_product_attention(one, other, third).transpose(0, 1))
    return torch.cat(mixed)


@pytest.mark.parametrize("with_what", [ONEDNN, ON_AMX, FLASH], ids=["oneDNN", "on AMX", "flash"])
@pytest.mark.parametrize("name", CONFIGS)
def test_states_without_padding_are_the_models_own(
    name: str, with_what: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _attention_of_each)
    torch.manual_seed(3)
    with quiet(), torch.inference_mode():
        model = transformers.AutoModel.from_config(CONFIGS[name]).eval()
        expected = [model(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in TEXTS]
        assert packs(model, with_what)
        found = packed(model, "cpu", with_what)([Encoded(len(ids), {"input_ids": ids}) for ids in TEXTS])
    assert found["attention_mask"].sum(1).tolist() == [len(ids) for ids in TEXTS]
    for ids, states, own in zip(TEXTS, found["token_embeddings"], expected, strict=True):
        assert torch.allclose(states[: len(ids)], own, atol=2e-6)
        assert not states[len(ids) :].any()


@pytest.mark.parametrize("with_what", [ONEDNN, ON_AMX], ids=["oneDNN", "on AMX"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_tokens_states_alone_are_the_models_own(name: str, with_what: Kernels) -> None:
    torch.manual_seed(3)
    with quiet(), torch.inference_mode():
        model = transformers.AutoModel.from_config(CONFIGS[name]).eval()
        expected = [model(input_ids=torch.tensor([ids])).last_hidden_state[0, :1] for ids in TEXTS]
        encoder = packed(model, "cpu", with_what, first_only=True)
        found = encoder([Encoded(len(ids), {"input_ids": ids}) for ids in TEXTS])
    assert found["attention_mask"].tolist() == [[1]] * len(TEXTS)
    assert torch.allclose(found["token_embeddings"], torch.stack(expected), atol=2e-6)


def test_what_is_not_of_berts_design_is_left_to_its_own_code() -> None:
    others = [
        transformers.MPNetConfig(vocab_size=50, **SIZES),
        transformers.BertConfig(vocab_size=50, hidden_act="silu", **SIZES),
        transformers.BertConfig(vocab_size=50, is_decoder=True, **SIZES),
    ]
    with quiet():
        models = [transformers.AutoModel.from_config(config) for config in others]
        plain = transformers.AutoModel.from_config(CONFIGS["bert"])
    assert not any(packs(model, with_what) for model in models for with_what in (ONEDNN, FLASH))
    assert packs(plain, ONEDNN)


def test_a_device_computes_without_padding_in_what_its_kernels_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "native_bfloat16", lambda device: device == "cuda:0")
    assert kernels_for("cpu", torch.float32) is ONEDNN
    assert kernels_for("cpu", torch.bfloat16) is None
    assert kernels_for("cpu", torch.float16) is None
    assert kernels_for("cuda:0", torch.bfloat16) is FLASH
    assert kernels_for("cuda:1", torch.bfloat16) is None
    assert kernels_for("cuda:1", torch.float16) is FLASH
    assert kernels_for("cuda:0", torch.float32) is None


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_a_model_that_passes_its_comparison_is_computed_without_padding(bench: Bench, dtype: str) -> None:
    spec = bench.spec("embed", "minilm", dtype=dtype)
    backend = EncoderBackend(Assignment(spec, bench.folder(spec), "cpu", bench.cache_dir, Head.POOLING))
    assert backend._encoder is not None


def _of_other_numbers(self: OneDnnLinear, residual: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return residual + 0.9 * residual.roll(1)


def _of_another_signature(self: OneDnnLinear, *arguments: object) -> torch.Tensor:
    raise RuntimeError("mkldnn::_linear_pointwise() is missing value for argument 'algorithm'")


def _not_a_number(self: OneDnnLinear, residual: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return residual * float("nan")


@pytest.mark.parametrize("broken", [_of_other_numbers, _of_another_signature, _not_a_number])
def test_products_that_changed_leave_the_model_its_own_code(
    broken: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(OneDnnLinear, "added_to", broken)
    spec = bench.spec("embed", "minilm")
    folder = bench.folder(spec)
    backend = EncoderBackend(Assignment(spec, folder, "cpu", bench.cache_dir, Head.POOLING))
    assert backend._encoder is None
    assert [record.getMessage().split()[0] for record in caplog.records] == ["packed_left_out"]
    with quiet():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    with contextlib.closing(Engine(lambda _: backend)) as engine:
        engine.start()
        ticket = engine.submit(spec, [(1, "Both of these"), (2, "are computed with padding by its own code.")])
        assert ticket.wait(60)
        found = vectors(ticket.finished())
    expected = model.encode(["Both of these", "are computed with padding by its own code."], show_progress_bar=False)
    assert np.allclose(found, expected, atol=1e-6)
