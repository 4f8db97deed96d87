"""Encoders of BERT's design on a CPU, without padding. Linear layers run over all tokens of a batch, end to end.

Only attention looks at one text at a time. Each batch prepares attention once for the lengths of its texts. Each
layer then calls it: shape (tokens, 3 × dim) becomes (tokens, dim). If only the states of first tokens are needed,
the last layer has its own attention: (texts, dim) and (tokens, 2 × dim) become (texts, dim).

The outputs are the same as those of the model's own code, except for the order of sums
(tests/tasks/backends/encoder/test_packed.py). oneDNN computes the products, by functions outside torch's public
interface. So docmill compares each model that it opens with the model's own code first. bench/results/inference.md
records the wins over that code on padded batches, and of oneDNN's products over torch's linear layers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from docmill.tasks.backends import accelerator
from docmill.tasks.backends.encoder.own_code import TOLERANCES, compute_reference
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger("docmill.backends")

# Activation names in model configurations, with oneDNN's names and variants.
ACTIVATIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "gelu": ("gelu", "none"),
        "gelu_new": ("gelu", "tanh"),
        "gelu_pytorch_tanh": ("gelu", "tanh"),
        "relu": ("relu", ""),
    }
)
# In bfloat16, oneDNN generates code for each new shape, which may take as long as the product of a batch. So batches
# have few numbers of rows.
_ROWS = 64
# The scores of attention to compute at once, which fit into a processor's cache, and the most scores of a text.
_SCORES, _SCORES_OF_TEXT = 2**19, 2**24
_LEAST_SUM, _GREATEST_SUM = 1e-30, 1e38  # of exponentials, far enough from zero and from infinity


def multiplies(device: str, dtype: torch.dtype) -> bool:
    """Return True if oneDNN multiplies in this precision on this device."""
    if device != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and accelerator.native_bfloat16(device))


class OneDnnLinear:
    """A linear layer, its weight laid out once for oneDNN; activation and residual sum are part of its product."""

    def __init__(self, *stacked: tuple[Tensor, Tensor]) -> None:
        weight = torch.cat([weight for weight, _ in stacked])
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = torch.cat([bias for _, bias in stacked])

    def __call__(self, inputs: Tensor, activation: tuple[str, str] = ("none", "")) -> Tensor:
        name, variant = activation
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, name, [], variant)
        return product

    def added_to(self, residual: Tensor, inputs: Tensor) -> Tensor:
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(inputs, residual, self._weight, self._bias, "add")
        return total


def by_length(lengths: Sequence[int], heads: int) -> Callable[[Tensor], Tensor]:
    """Return attention for texts of these lengths."""
    groups = [*_group(lengths, heads)]

    def attention(projected: Tensor) -> Tensor:
        mixed, start = [], 0
        for texts, length in groups:
            end = start + texts * length
            together = attend(projected[start:end].view(texts, length, 3, heads, -1).permute(2, 0, 3, 1, 4))
            mixed.append(together.transpose(1, 2).flatten(0, 1).flatten(1))
            start = end
        return torch.cat([*mixed, projected[start:, : projected.shape[1] // 3]])

    return attention


def first_by_length(lengths: Sequence[int], heads: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return attention for the first tokens of texts of these lengths."""
    groups = [*_group(lengths, heads)]

    def attention(queries: Tensor, keys_values: Tensor) -> Tensor:
        mixed, start, row = [], 0, 0
        for texts, length in groups:
            end = start + texts * length
            query = queries[row : row + texts].view(texts, 1, heads, -1).transpose(1, 2)
            key, value = keys_values[start:end].view(texts, length, 2, heads, -1).permute(2, 0, 3, 1, 4)
            together = functional.scaled_dot_product_attention(query, key, value)
            mixed.append(together.reshape(texts, -1))
            start, row = end, row + texts
        return torch.cat([*mixed, queries[row:]])

    return attention


def _group(lengths: Sequence[int], heads: int) -> Iterator[tuple[int, int]]:
    """Yield how many texts go through attention together, and their length. Only neighbors of one length do.

    The numbers of texts are powers of two, so that oneDNN generates code for few shapes.
    """
    for length, run in groupby(lengths):
        texts, most = len([*run]), max(1, _SCORES // (heads * length**2))
        while texts:
            together = 1 << (min(texts, most).bit_length() - 1)
            yield together, length
            texts -= together


def attend(projected: Tensor) -> Tensor:
    """Return attention of shape (texts, heads, tokens, dim of a head) from queries, keys and values side by side.

    ``projected`` has one more axis of three in front. In bfloat16, simple steps take less than half the time of
    torch's fused attention (bench/results/diary.md).
    """
    states = _attend_in_steps(projected) if projected.dtype == torch.bfloat16 else None
    return functional.scaled_dot_product_attention(*projected) if states is None else states


def _attend_in_steps(projected: Tensor) -> Tensor | None:
    """Return attention as ``attend`` does, or None if the scores are too many or too large for these steps.

    The exponentials are those of the scores themselves, since subtracting the greatest score of a row takes as long
    as a product. They are exact enough as long as no sum of them nears the ends of the range of numbers.
    """
    _, texts, heads, tokens, dim = projected.shape
    if heads * tokens**2 > _SCORES_OF_TEXT:
        return None
    query, key, value = projected.reshape(3, texts * heads, tokens, dim)
    scores = torch.baddbmm(query.new_empty(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=dim**-0.5)
    sums = scores.exp_().sum(-1, keepdim=True)
    least, greatest = sums.aminmax()
    if not (least > _LEAST_SUM and greatest < _GREATEST_SUM):
        return None
    return torch.bmm(scores, value).div_(sums).view(texts, heads, tokens, dim)


# Model types with BERT's layers.
_BERTS_DESIGN = frozenset({"bert", "distilbert", "roberta", "xlm-roberta", "camembert"})
# Model types like RoBERTa, whose positions begin after the padding index.
_BEHIND_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})
_EMBEDDINGS = ("word_embeddings", "token_type_embeddings", "position_embeddings")

Norm = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Names:
    """The names of an encoder's modules. ``layers`` has the number of a layer in place of its braces."""

    layers: str
    projections: tuple[str, str, str]  # queries, keys and values
    mixed: str
    attention_norm: str
    inner: str
    outer: str
    output_norm: str


_PLAIN = Names(
    "encoder.layer.{}",
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_DISTILLED = Names(
    "transformer.layer.{}",
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
)


class Layer:
    """One encoder layer: attention and feed-forward network, a norm after each. Its modules' names begin with ``at``.

    ``projections`` computes queries, keys and values side by side. In a ``split`` layer, ``queries`` is separate.
    """

    def __init__(self, names: Names, at: str, weights: Mapping[str, Tensor], epsilon: float, *, split: bool) -> None:
        def linear(*stacked: str) -> OneDnnLinear:
            return OneDnnLinear(*((weights[f"{at}.{name}.weight"], weights[f"{at}.{name}.bias"]) for name in stacked))

        query, *others = names.projections
        self.projections = linear(*(others if split else names.projections))
        self.queries = linear(query) if split else None
        self._mixed, self._inner, self._outer = linear(names.mixed), linear(names.inner), linear(names.outer)
        self._attention_norm = _make_norm(weights, f"{at}.{names.attention_norm}", epsilon)
        self._output_norm = _make_norm(weights, f"{at}.{names.output_norm}", epsilon)

    def after(self, states: Tensor, mixed: Tensor, activation: tuple[str, str]) -> Tensor:
        """Return the layer's states from those before it and the output of its attention. The shape is the same."""
        states = self._attention_norm(self._mixed.added_to(states, mixed))
        inner = self._inner(states, activation)
        return self._output_norm(self._outer.added_to(states, inner))


class PackedEncoder:
    """Computes an encoder's last hidden states for a batch of token ids, without padding.

    Shares the model's embeddings and norms. With ``first_only``, the last layer computes only the states of first
    tokens. With ``round_up``, the number of rows is rounded up to one of few.
    """

    def __init__(self, model: PreTrainedModel, *, first_only: bool = False, round_up: bool) -> None:
        config, names = model.config, module_names(model)
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        epsilon = model.embeddings.LayerNorm.eps
        self._heads: int = config.num_attention_heads
        self._padding: int | None = config.pad_token_id if config.model_type in _BEHIND_PADDING else None
        self._activation = ACTIVATIONS[activation(config)]
        self._row_step = _ROWS if round_up else 1
        self._tables = {
            name: weights[f"embeddings.{name}.weight"]
            for name in _EMBEDDINGS
            if f"embeddings.{name}.weight" in weights
        }
        self._norm = _make_norm(weights, "embeddings.LayerNorm", epsilon)
        last = config.num_hidden_layers - 1
        self._layers = [
            Layer(names, names.layers.format(number), weights, epsilon, split=first_only and number == last)
            for number in range(last + 1)
        ]

    def __call__(self, batch: Sequence[Encoded]) -> dict[str, Tensor]:
        """Return ``token_embeddings`` in float32, of shape (texts, longest, dim), and their ``attention_mask``.

        With ``first_only``, the longest is 1.
        """
        lengths = [window.tokens for window in batch]
        states = self._embed(batch, lengths)
        attention = by_length(lengths, self._heads)
        for layer in self._layers:
            if layer.queries is not None:
                states = self._compute_firsts(layer, layer.queries, states, lengths)
                lengths = [1] * len(batch)
            else:
                states = layer.after(states, attention(layer.projections(states)), self._activation)
        mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
        padded = torch.zeros(*mask.shape, states.shape[-1])
        padded[mask] = states[: sum(lengths)].float()
        return {"token_embeddings": padded, "attention_mask": mask.long()}

    def _compute_firsts(self, layer: Layer, queries: OneDnnLinear, states: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the layer's states of each text's first token, of shape (texts, dim)."""
        attention = first_by_length(lengths, self._heads)
        firsts = self._round_rows(states[torch.tensor([0, *lengths[:-1]]).cumsum(0)])
        return layer.after(firsts, attention(queries(firsts), layer.projections(states)), self._activation)

    def _embed(self, batch: Sequence[Encoded], lengths: Sequence[int]) -> Tensor:
        """Return the embeddings of the tokens, of shape (tokens, dim)."""
        ids = _join(batch, "input_ids")
        states = self._look_up("word_embeddings", ids)
        if "token_type_embeddings" in self._tables:
            known = all("token_type_ids" in window.features for window in batch)
            types = _join(batch, "token_type_ids") if known else torch.zeros_like(ids)
            states = states + self._look_up("token_type_embeddings", types)
        states = states + self._look_up("position_embeddings", self._positions(ids, lengths))
        return self._round_rows(self._norm(states))

    def _round_rows(self, states: Tensor) -> Tensor:
        """Return the states, padded with rows of zeros to a multiple of the row step."""
        return functional.pad(states, (0, 0, 0, -len(states) % self._row_step))

    def _look_up(self, table: str, numbers: Tensor) -> Tensor:
        return functional.embedding(numbers, self._tables[table])

    def _positions(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        padding = self._padding
        if padding is None:
            return torch.cat([torch.arange(length) for length in lengths])
        # A padding token that a text spells out gets the padding position.
        real = ids != padding
        counted = torch.cat([part.cumsum(0) for part in real.split_with_sizes(list(lengths))])
        return counted * real + padding


def proven_encoder(
    model: PreTrainedModel, device: str, dtype: torch.dtype, *, reads_first: bool
) -> PackedEncoder | None:
    """Return an encoder without padding if its outputs match those of the model's own code; else None.

    With ``reads_first``, the head reads only first tokens, so the encoder computes only their states. An exception
    during the comparison counts as a difference.
    """
    if not multiplies(device, dtype) or not packs(model):
        return None
    try:
        encoder = PackedEncoder(model, first_only=reads_first, round_up=dtype == torch.bfloat16)
        with torch.inference_mode():
            difference = compute_reference(model, TOLERANCES[dtype], first_only=reads_first).distance(encoder)
    except Exception as error:  # whatever torch raises where it has changed
        log.warning("packed_left_out model=%s error=%r", model.config.model_type, error)
        return None
    if not difference <= TOLERANCES[dtype]:
        log.warning("packed_left_out model=%s difference=%.2g", model.config.model_type, difference)
        return None
    return encoder


def packs(model: PreTrainedModel) -> bool:
    """Return True if ``PackedEncoder`` computes this model."""
    return has_berts_design(model) and activation(model.config) in ACTIVATIONS


def has_berts_design(model: PreTrainedModel) -> bool:
    """Return True if the model has BERT's layers, under the names of ``module_names``."""
    config = model.config
    known = config.model_type in _BERTS_DESIGN and not getattr(config, "is_decoder", False)
    return known and hasattr(model, "embeddings")


def module_names(model: PreTrainedModel) -> Names:
    """Return the module names of an encoder of BERT's design."""
    return _DISTILLED if model.config.model_type == "distilbert" else _PLAIN


def activation(config: PretrainedConfig) -> str:
    return str(getattr(config, "hidden_act", None) or getattr(config, "activation", ""))


def _make_norm(weights: Mapping[str, Tensor], name: str, epsilon: float) -> Norm:
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return lambda states: functional.layer_norm(states, scale.shape, scale, shift, epsilon)


def _join(batch: Sequence[Encoded], name: str) -> Tensor:
    """Return a feature of all texts, end to end."""
    return torch.from_numpy(np.concatenate([np.asarray(window.feature(name), dtype=np.int64) for window in batch]))
