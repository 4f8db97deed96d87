"""Encoders of BERT's design without padding: the linear layers run over the tokens of a whole batch, end to end.

Only attention looks at one text at a time. It is prepared for the lengths of a batch's texts and then called once
for each layer, from shape (tokens, 3 × dim) to (tokens, dim). Where no state is wanted but those of first tokens,
the last layer has attention of its own, from (texts, dim) and (tokens, 2 × dim) to (texts, dim).

The outputs are those of the model's own code, but for the order of sums
(tests/tasks/backends/encoder/test_packed.py). On a CPU products are oneDNN's, and on a GPU attention is flash
attention. Not all of this is part of torch's public interface: so each model that is opened is compared with its own
code first. The wins over that code on padded batches, and of oneDNN's products over torch's linear layers, are
recorded in bench/results/inference.md. Flash attention has no record: it was tested on a CPU with another attention
in its place, and has not been on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from docmill.tasks.backends import accelerator
from docmill.tasks.backends.encoder.own_code import TOLERANCES, compared
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger("docmill.backends")

# From the lengths of a batch's texts, the number of heads and the device to the attention of a layer.
Attention = Callable[[Sequence[int], int, str], Callable[[Tensor], Tensor]]
# The same for the first tokens' queries, and the keys and values of all tokens.
FirstAttention = Callable[[Sequence[int], int, str], Callable[[Tensor, Tensor], Tensor]]


class LinearLayer(Protocol):
    """A linear layer, made of a weight and a bias; several that were made one are computed side by side."""

    def __call__(self, inputs: Tensor, activation: Any = ...) -> Tensor: ...

    def added_to(self, residual: Tensor, inputs: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Kernels:
    """One device's ways: to make layers, the activations that they know by their names in configurations,
    attention, and that of first tokens if there is one. Layers compute a multiple of ``step`` rows; attention leaves
    the rows behind the last text as they are."""

    linear: Callable[..., LinearLayer]
    activations: Mapping[str, Any]
    attention: Attention
    of_first: FirstAttention | None = None
    step: int = 1


def kernels_for(device: str, dtype: torch.dtype) -> Kernels | None:
    """Return the kernels that compute in this precision on this device; None if there are none."""
    native = dtype != torch.bfloat16 or accelerator.native_bfloat16(device)
    if device == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        if native and dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported():
            return ON_AMX
        return ONEDNN if native and dtype in {torch.float32, torch.bfloat16} else None
    if device.startswith("cuda") and find_spec("torch.nn.attention.varlen") is not None:
        return FLASH if native and dtype in {torch.float16, torch.bfloat16} else None
    return None


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


class PlainLinear:
    """A linear layer of torch's own."""

    def __init__(self, *stacked: tuple[Tensor, Tensor]) -> None:
        self._weight = torch.cat([weight for weight, _ in stacked])
        self._bias = torch.cat([bias for _, bias in stacked])

    def __call__(self, inputs: Tensor, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        product = functional.linear(inputs, self._weight, self._bias)
        return product if activation is None else activation(product)

    def added_to(self, residual: Tensor, inputs: Tensor) -> Tensor:
        return residual + functional.linear(inputs, self._weight, self._bias)


def by_length(lengths: Sequence[int], heads: int, _device: str, *, step: int = 1) -> Callable[[Tensor], Tensor]:
    """Neighbors go through attention together if their lengths round up to one multiple of ``step``."""
    groups: list[tuple[slice, tuple[int, ...], tuple[Tensor, Tensor, Tensor] | None]] = []
    end = 0
    for longest, run in groupby(lengths, lambda length: length + -length % step):
        of_texts = torch.tensor([*run])
        starts = end + of_texts.cumsum(0) - of_texts
        start, end = end, end + int(of_texts.sum())
        places = torch.arange(longest)
        real = places < of_texts[:, None]
        padding = None
        if not real.all():  # the first token stands for what pads its text, and nothing sees it
            rows = (starts[:, None] + places * real).flatten()
            mask = torch.zeros(real.shape).masked_fill(~real, -torch.inf)[:, None, None]
            padding = rows, mask, real.flatten().nonzero().flatten()
        groups.append((slice(start, end), real.shape, padding))

    def attention(projected: Tensor) -> Tensor:
        mixed = []
        for place, shape, padding in groups:
            rows, mask, kept = padding or (None, None, None)
            group = projected[place] if rows is None else projected.index_select(0, rows)
            query, key, value = group.view(*shape, 3, heads, -1).permute(2, 0, 3, 1, 4)
            together = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            states = together.transpose(1, 2).flatten(0, 1).flatten(1)
            mixed.append(states if kept is None else states.index_select(0, kept))
        return torch.cat([*mixed, projected[end:, : projected.shape[1] // 3]])

    return attention


def first_by_length(lengths: Sequence[int], heads: int, _device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """First tokens of neighbors of one length go through attention together."""
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]

    def attention(queries: Tensor, keys_values: Tensor) -> Tensor:
        mixed, start, row = [], 0, 0
        for length, count in runs:
            end = start + length * count
            query = queries[row : row + count].view(count, 1, heads, -1).transpose(1, 2)
            key, value = keys_values[start:end].view(count, length, 2, heads, -1).permute(2, 0, 3, 1, 4)
            together = functional.scaled_dot_product_attention(query, key, value)
            mixed.append(together.reshape(count, -1))
            start, row = end, row + count
        return torch.cat([*mixed, queries[row:]])

    return attention


def flash(lengths: Sequence[int], heads: int, device: str) -> Callable[[Tensor], Tensor]:
    """All texts go through attention together, each by itself: torch is told where they begin."""
    from torch.nn.attention.varlen import varlen_attn

    longest = max(lengths)
    starts = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)

    def attention(projected: Tensor) -> Tensor:
        query, key, value = projected.view(len(projected), 3, heads, -1).unbind(1)
        mixed = varlen_attn(query, key, value, starts, starts, longest, longest)
        assert isinstance(mixed, Tensor)  # it gives more only where more is asked for
        return mixed.reshape(len(projected), -1)

    return attention


_TANH = partial(functional.gelu, approximate="tanh")
# oneDNN names an activation and its variant.
ONEDNN = Kernels(
    OneDnnLinear,
    MappingProxyType(
        {
            "gelu": ("gelu", "none"),
            "gelu_new": ("gelu", "tanh"),
            "gelu_pytorch_tanh": ("gelu", "tanh"),
            "relu": ("relu", ""),
        }
    ),
    by_length,
    first_by_length,
)
# On AMX, oneDNN generates code for each new number of rows, which takes as long as the product of a batch. A row of
# scores that ends within a register of 16 numbers takes longer than one that fills it.
ON_AMX = replace(ONEDNN, step=64, attention=partial(by_length, step=16))
FLASH = Kernels(
    PlainLinear,
    MappingProxyType(
        {"gelu": functional.gelu, "gelu_new": _TANH, "gelu_pytorch_tanh": _TANH, "relu": functional.relu}
    ),
    flash,
)


# Model types with BERT's layers.
_BERTS_DESIGN = frozenset({"bert", "distilbert", "roberta", "xlm-roberta", "camembert"})
# Model types like RoBERTa, whose positions count from behind the padding index.
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


@dataclass(frozen=True)
class Design:
    """The facts about an encoder of BERT's design beside its weights.

    ``padding`` is the index behind which positions count, None where they count from 0. ``epsilon`` is that of the
    norms. With ``first_only`` the last layer gives the state of each text's first token alone.
    """

    distilled: bool
    typed: bool
    layers: int
    heads: int
    activation: str
    padding: int | None
    epsilon: float
    first_only: bool = False

    @classmethod
    def of(cls, model: PreTrainedModel, *, first_only: bool = False) -> Design:
        config = model.config
        return cls(
            distilled=config.model_type == "distilbert",
            typed=hasattr(model.embeddings, "token_type_embeddings"),
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            activation=activation(config),
            padding=config.pad_token_id if config.model_type in _BEHIND_PADDING else None,
            epsilon=model.embeddings.LayerNorm.eps,
            first_only=first_only,
        )

    @property
    def names(self) -> Names:
        return _DISTILLED if self.distilled else _PLAIN


@dataclass(frozen=True)
class Layer:
    """One encoder layer: attention and feed-forward network, a norm after each.

    ``projections`` are of queries, keys and values side by side; without queries where these are by themselves.
    """

    projections: LinearLayer
    mixed: LinearLayer
    attention_norm: Norm
    inner: LinearLayer
    outer: LinearLayer
    output_norm: Norm
    queries: LinearLayer | None = None

    def after(self, states: Tensor, mixed: Tensor, activation: Any) -> Tensor:
        """Return the layer's states, of the same shape as those before it, from what its attention gave."""
        states = self.attention_norm(self.mixed.added_to(states, mixed))
        inner = self.inner(states, activation)
        return self.output_norm(self.outer.added_to(states, inner))


class PackedEncoder:
    """The last hidden states of an encoder on ``device`` for a batch of token ids, without padding.

    By a design with ``first_only`` they are those of the first tokens: of each layer but the last all else is read.
    ``weight`` gives a tensor by the name that it has in transformers' model.
    """

    def __init__(self, design: Design, weight: Callable[[str], Tensor], device: str, kernels: Kernels) -> None:
        self.design = design
        self._device = device
        self._attention = kernels.attention
        self._of_first = kernels.of_first
        self._step = kernels.step
        self._activation = kernels.activations[design.activation]
        self._tables = {
            name: weight(f"embeddings.{name}.weight")
            for name in _EMBEDDINGS
            if design.typed or name != "token_type_embeddings"
        }
        norm = partial(_norm, weight, design.epsilon)
        self._norm = norm("embeddings.LayerNorm")
        self._layers = [
            _layer(
                design.names,
                design.names.layers.format(number),
                weight,
                norm,
                kernels,
                split=design.first_only and number == design.layers - 1,
            )
            for number in range(design.layers)
        ]

    def __call__(self, batch: Sequence[Encoded]) -> dict[str, Tensor]:
        """``token_embeddings`` in float32, of shape (texts, longest, dim), and their ``attention_mask``.

        With ``first_only`` the longest is 1.
        """
        lengths = [window.tokens for window in batch]
        states = self._embedded(batch, lengths)
        attention = self._attention(lengths, self.design.heads, self._device)
        for layer in self._layers:
            if layer.queries is not None:
                states = self._firsts(layer, layer.queries, states, lengths)
                lengths = [1] * len(batch)
            else:
                states = layer.after(states, attention(layer.projections(states)), self._activation)
        mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).to(self._device)
        padded = torch.zeros(*mask.shape, states.shape[-1], device=self._device)
        padded[mask] = states[: sum(lengths)].float()
        return {"token_embeddings": padded, "attention_mask": mask.long()}

    def _firsts(self, layer: Layer, queries: LinearLayer, states: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return what the layer gives for each text's first token, of shape (texts, dim)."""
        assert self._of_first is not None
        attention = self._of_first(lengths, self.design.heads, self._device)
        firsts = self._rounded(states[torch.tensor([0, *lengths[:-1]]).cumsum(0).to(self._device)])
        return layer.after(firsts, attention(queries(firsts), layer.projections(states)), self._activation)

    def _embedded(self, batch: Sequence[Encoded], lengths: Sequence[int]) -> Tensor:
        """Shape (tokens, dim)."""
        ids = _joined(batch, "input_ids")
        states = self._looked_up("word_embeddings", ids)
        if self.design.typed:
            known = all("token_type_ids" in window.features for window in batch)
            types = _joined(batch, "token_type_ids") if known else torch.zeros_like(ids)
            states = states + self._looked_up("token_type_embeddings", types)
        states = states + self._looked_up("position_embeddings", self._positions(ids, lengths))
        return self._rounded(self._norm(states))

    def _rounded(self, states: Tensor) -> Tensor:
        """Return states with rows of zeros behind them, up to a multiple of the kernels' step."""
        return functional.pad(states, (0, 0, 0, -len(states) % self._step))

    def _looked_up(self, table: str, numbers: Tensor) -> Tensor:
        return functional.embedding(numbers.to(self._device), self._tables[table])

    def _positions(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        padding = self.design.padding
        if padding is None:
            return torch.cat([torch.arange(length) for length in lengths])
        # A padding token that a text spells out has no position of its own there.
        real = ids != padding
        counted = torch.cat([part.cumsum(0) for part in real.split_with_sizes(list(lengths))])
        return counted * real + padding


def packed(model: PreTrainedModel, device: str, kernels: Kernels, *, first_only: bool = False) -> PackedEncoder:
    """Return the encoder of a model without padding; it shares the model's embeddings and norms."""
    weights = dict(model.named_parameters())
    design = Design.of(model, first_only=first_only)
    return PackedEncoder(design, lambda name: weights[name].detach(), device, kernels)


def proven_encoder(
    model: PreTrainedModel, device: str, dtype: torch.dtype, *, reads_first: bool = False
) -> PackedEncoder | None:
    """Return the model without padding if it gives what the model's own code gives, or None.

    For a head that ``reads_first`` it computes no other state than that, if the kernels can. What the comparison
    raises counts as a difference.
    """
    kernels = kernels_for(device, dtype)
    if kernels is None or not packs(model, kernels):
        return None
    try:
        first_only = reads_first and kernels.of_first is not None
        encoder = packed(model, device, kernels, first_only=first_only)
        with torch.inference_mode():
            difference = compared(model, TOLERANCES[dtype], first_only=first_only).distance(encoder)
    except Exception as error:  # whatever torch raises where it has changed
        log.warning("packed_left_out model=%s error=%r", model.config.model_type, error)
        return None
    if not difference <= TOLERANCES[dtype]:
        log.warning("packed_left_out model=%s difference=%.2g", model.config.model_type, difference)
        return None
    return encoder


def take_over(model: PreTrainedModel) -> None:
    """Give the model's weights back: it computes nothing by itself any more. An encoder keeps those that it uses."""
    model.to("meta")


def packs(model: PreTrainedModel, kernels: Kernels) -> bool:
    """Return True if ``PackedEncoder`` computes this model."""
    return has_berts_design(model) and activation(model.config) in kernels.activations


def has_berts_design(model: PreTrainedModel) -> bool:
    """Return True for a model that has BERT's layers, by the names that a ``Design`` has."""
    config = model.config
    known = config.model_type in _BERTS_DESIGN and not getattr(config, "is_decoder", False)
    return known and hasattr(model, "embeddings")


def activation(config: PretrainedConfig) -> str:
    return str(getattr(config, "hidden_act", None) or getattr(config, "activation", ""))


def _layer(
    names: Names,
    at: str,
    weight: Callable[[str], Tensor],
    norm: Callable[[str], Norm],
    kernels: Kernels,
    *,
    split: bool,
) -> Layer:
    """Return the layer whose modules' names begin with ``at``; if it is ``split``, queries are by themselves."""

    def linear(*stacked: str) -> LinearLayer:
        return kernels.linear(*((weight(f"{at}.{name}.weight"), weight(f"{at}.{name}.bias")) for name in stacked))

    query, *others = names.projections
    queries = linear(query) if split else None
    return Layer(
        linear(*(others if split else names.projections)),
        linear(names.mixed),
        norm(f"{at}.{names.attention_norm}"),
        linear(names.inner),
        linear(names.outer),
        norm(f"{at}.{names.output_norm}"),
        queries,
    )


def _norm(weight: Callable[[str], Tensor], epsilon: float, name: str) -> Norm:
    scale, shift = weight(f"{name}.weight"), weight(f"{name}.bias")
    return lambda states: functional.layer_norm(states, scale.shape, scale, shift, epsilon)


def _joined(batch: Sequence[Encoded], name: str) -> Tensor:
    """A feature of all texts, end to end."""
    return torch.from_numpy(np.concatenate([np.asarray(window.feature(name), dtype=np.int64) for window in batch]))
