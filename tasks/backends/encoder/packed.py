"""Encoders of BERT's design without padding: the linear layers run over the tokens of a whole batch, end to end.

Only attention looks at one text at a time. The outputs are those of the model's own code, but for the order of sums
(tests/tasks/backends/encoder/test_packed.py). Not all of what is computed with is part of torch's public interface
(``tasks.backends.encoder.kernels``): so each model that is opened is compared with its own code first. The win over
that code on padded batches is recorded in bench/results/inference.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tasks.backends.encoder.kernels import Kernels, Linear, kernels_for
from tasks.models import families
from tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.models.bert.modeling_bert import BertLayer
    from transformers.models.distilbert.modeling_distilbert import TransformerBlock

log = logging.getLogger("docmill.backends")

# Model types with BERT's layers.
_BERTS_DESIGN = frozenset({"bert", "distilbert", "roberta", "xlm-roberta", "camembert"})
# Of RoBERTa's kind, positions count from behind the padding index.
_BEHIND_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})
# Lengths in tokens of the texts that are compared; two of them go through attention together. One more text is so
# long that the others' padding lies further from their tokens than any layer of local attention sees.
_COMPARED_LENGTHS = (3, 9, 9, 24)
_LEAST_LONGEST = 96
# The names under which configurations keep how far a layer of local attention sees, in tokens.
_SPANS = ("local_attention", "sliding_window", "attention_window")
# How far a token's state may lie from that of the model's own code, in parts of its length. Measured: 2e-6 and 0.014;
# bfloat16 itself is 0.02 away from float32, and deeper models more.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True)
class Layer:
    """One encoder layer: attention and feed-forward network, a norm after each."""

    projections: Linear  # queries, keys and values side by side
    mixed: Linear
    attention_norm: nn.LayerNorm
    inner: Linear
    outer: Linear
    output_norm: nn.LayerNorm


class PackedEncoder:
    """The last hidden states of a transformers encoder on ``device`` for a batch of token ids, without padding."""

    def __init__(self, model: PreTrainedModel, device: str, kernels: Kernels) -> None:
        config = model.config
        self._device = device
        self._attention = kernels.attention
        self._heads: int = config.num_attention_heads
        self._activation = kernels.activations[_activation(config)]
        self._embeddings = model.embeddings
        self._typed = hasattr(model.embeddings, "token_type_embeddings")
        self._padding: int | None = config.pad_token_id if config.model_type in _BEHIND_PADDING else None
        distilled = config.model_type == "distilbert"
        layers = model.transformer.layer if distilled else model.encoder.layer
        self._own_layers = layers
        read = _distilled if distilled else _plain
        self._layers = [read(layer, kernels.linear) for layer in layers]

    def take_over(self) -> None:
        """Give the weights of the model's own linear layers back: it computes nothing by itself any more."""
        for layer in self._own_layers:
            for linear in [module for module in layer.modules() if isinstance(module, nn.Linear)]:
                linear.to("meta")

    def __call__(self, batch: Sequence[Encoded]) -> dict[str, Tensor]:
        """``token_embeddings`` in float32, of shape (texts, longest, dim), and their ``attention_mask``."""
        lengths = [one.tokens for one in batch]
        states = self._embedded(batch, lengths)
        attention = self._attention(lengths, self._heads, self._device)
        for layer in self._layers:
            mixed = attention(layer.projections(states))
            states = _normed(layer.attention_norm, layer.mixed.added_to(states, mixed))
            inner = layer.inner(states, self._activation)
            states = _normed(layer.output_norm, layer.outer.added_to(states, inner))
        mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).to(self._device)
        padded = torch.zeros(*mask.shape, states.shape[-1], device=self._device)
        padded[mask] = states.float()
        return {"token_embeddings": padded, "attention_mask": mask.long()}

    def _embedded(self, batch: Sequence[Encoded], lengths: Sequence[int]) -> Tensor:
        """Shape (tokens, dim)."""
        ids = _joined(batch, "input_ids")
        features = {"input_ids": ids, "position_ids": self._positions(ids, lengths)}
        if self._typed:
            known = all("token_type_ids" in one.features for one in batch)
            features["token_type_ids"] = _joined(batch, "token_type_ids") if known else torch.zeros_like(ids)
        there = {name: values[None].to(self._device) for name, values in features.items()}
        states: Tensor = self._embeddings(**there)
        return states[0]

    def _positions(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        if self._padding is None:
            return torch.cat([torch.arange(length) for length in lengths])
        # A padding token that a text spells out has no position of its own there.
        real = ids != self._padding
        counted = torch.cat([part.cumsum(0) for part in real.split_with_sizes(list(lengths))])
        return counted * real + self._padding


def proven_encoder(model: PreTrainedModel, device: str, dtype: torch.dtype) -> PackedEncoder | None:
    """The model without padding, once it gave what the model's own code gives; None where that has to compute.

    Takes the model over. What the comparison raises counts as a difference.
    """
    kernels = kernels_for(device, dtype)
    if kernels is None or not packs(model, kernels):
        return None
    try:
        encoder = PackedEncoder(model, device, kernels)
        with torch.inference_mode():
            distance = difference(encoder, model)
    except Exception as error:  # whatever torch raises where it has changed
        log.warning("packed_left_out model=%s error=%r", model.config.model_type, error)
        return None
    if not distance <= TOLERANCES[dtype]:
        log.warning("packed_left_out model=%s difference=%.2g", model.config.model_type, distance)
        return None
    encoder.take_over()
    return encoder


def difference(encoder: Callable[[Sequence[Encoded]], dict[str, Tensor]], model: PreTrainedModel) -> float:
    """The most that a token's state differs from that of the model's own code, in parts of its length."""
    most = model.config.vocab_size - 1
    rows = [[number * most // length for number in range(1, length + 1)] for length in compared_lengths(model.config)]
    states = encoder([Encoded(len(ids), {"input_ids": ids}) for ids in rows])["token_embeddings"]
    if not states.isfinite().all():  # of padding, too: a mean multiplies it by zero
        return math.inf
    distances = []
    for ids, found in zip(rows, states, strict=True):
        own = model(input_ids=torch.tensor([ids], device=states.device)).last_hidden_state[0].float()
        distances.append(((found[: len(ids)] - own).norm(dim=-1) / own.norm(dim=-1)).max())
    return float(torch.stack(distances).max())


def compared_lengths(config: PretrainedConfig) -> tuple[int, ...]:
    """Return the lengths in tokens of a comparison's texts, which are padded as those of a real batch are."""
    limit = families.window_limit(config.to_dict())
    longest = min(limit, max(_LEAST_LONGEST, local_span(config) + 2 * max(_COMPARED_LENGTHS)))
    return tuple(min(length, limit) for length in (*_COMPARED_LENGTHS, longest))


def local_span(config: PretrainedConfig) -> int:
    """Return the most tokens that a layer of local attention sees; 0 where all layers see everything."""
    spans = [getattr(config, name, None) for name in _SPANS]
    return max((max(span) if isinstance(span, list) else span for span in spans if span), default=0)


def packs(model: PreTrainedModel, kernels: Kernels) -> bool:
    """Return True if ``PackedEncoder`` computes this model."""
    config = model.config
    known = config.model_type in _BERTS_DESIGN and _activation(config) in kernels.activations
    return known and not getattr(config, "is_decoder", False) and hasattr(model, "embeddings")


def _activation(config: PretrainedConfig) -> str:
    return str(getattr(config, "hidden_act", None) or getattr(config, "activation", ""))


def _plain(layer: BertLayer, linear: Callable[..., Linear]) -> Layer:
    attention = layer.attention.self
    return Layer(
        linear(attention.query, attention.key, attention.value),
        linear(layer.attention.output.dense),
        layer.attention.output.LayerNorm,
        linear(layer.intermediate.dense),
        linear(layer.output.dense),
        layer.output.LayerNorm,
    )


def _distilled(layer: TransformerBlock, linear: Callable[..., Linear]) -> Layer:
    attention = layer.attention
    return Layer(
        linear(attention.q_lin, attention.k_lin, attention.v_lin),
        linear(attention.out_lin),
        layer.sa_layer_norm,
        linear(layer.ffn.lin1),
        linear(layer.ffn.lin2),
        layer.output_layer_norm,
    )


def _normed(norm: nn.LayerNorm, states: Tensor) -> Tensor:
    normed: Tensor = norm(states)
    return normed


def _joined(batch: Sequence[Encoded], name: str) -> Tensor:
    """A feature of all texts, end to end."""
    return torch.from_numpy(np.concatenate([np.asarray(one.feature(name), dtype=np.int64) for one in batch]))
