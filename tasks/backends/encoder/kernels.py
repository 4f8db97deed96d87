"""Kernels for encoders without padding: oneDNN's products on a CPU, flash attention on a GPU.

A product is over the tokens of all texts, end to end. Attention is prepared for the lengths of a batch's texts and
then called once for each layer, from shape (tokens, 3 × dim) to (tokens, dim). Where no state is wanted but those of
first tokens, the last layer has attention of its own, from (texts, dim) and (tokens, 2 × dim) to (texts, dim). The
win of oneDNN's products over torch's linear layers is recorded in bench/results/inference.md. Flash attention has no
record: it was tested on a CPU with another attention in its place, and has not been on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from docmill.tasks.backends import accelerator

# From the lengths of a batch's texts, the number of heads and the device to the attention of a layer.
Attention = Callable[[Sequence[int], int, str], Callable[[Tensor], Tensor]]
# The same for the first tokens' queries, and the keys and values of all tokens.
FirstAttention = Callable[[Sequence[int], int, str], Callable[[Tensor, Tensor], Tensor]]


class Linear(Protocol):
    """A linear layer, made of a weight and a bias; several that were made one are computed side by side."""

    def __call__(self, inputs: Tensor, activation: Any = ...) -> Tensor: ...

    def added_to(self, residual: Tensor, inputs: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Kernels:
    """One device's ways: to make layers, the activations that they know by their names in configurations,
    attention, and that of first tokens if there is one."""

    linear: Callable[..., Linear]
    activations: Mapping[str, Any]
    attention: Attention
    of_first: FirstAttention | None = None


def kernels_for(device: str, dtype: torch.dtype) -> Kernels | None:
    """Return the kernels that compute in this precision on this device; None if there are none."""
    native = dtype != torch.bfloat16 or accelerator.native_bfloat16(device)
    if device == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
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


def by_length(lengths: Sequence[int], heads: int, _device: str) -> Callable[[Tensor], Tensor]:
    """Neighbours of one length go through attention together."""
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]

    def attention(projected: Tensor) -> Tensor:
        mixed, start = [], 0
        for length, count in runs:
            end = start + length * count
            query, key, value = projected[start:end].view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
            together = functional.scaled_dot_product_attention(query, key, value)
            mixed.append(together.transpose(1, 2).reshape(end - start, -1))
            start = end
        return torch.cat(mixed)

    return attention


def first_by_length(lengths: Sequence[int], heads: int, _device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """First tokens of neighbours of one length go through attention together."""
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
        return torch.cat(mixed)

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
FLASH = Kernels(
    PlainLinear,
    MappingProxyType(
        {"gelu": functional.gelu, "gelu_new": _TANH, "gelu_pytorch_tanh": _TANH, "relu": functional.relu}
    ),
    flash,
)
