"""Outlier channels of a feed-forward network, computed apart from the others, in floating point.

Int8 has one scale for all values that enter a product. A few channels have values many times as great as the others,
which such a scale rounds away (Dettmers et al. 2022, LLM.int8(), section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from docmill.tasks.backends.encoder.packed import Design, activation, has_berts_design
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# In MiniLM's first layer the greatest value of one channel is 25, that of the next 7. With 1 to 64 channels apart
# the vectors were equally near to float32.
N_CHANNELS = 8


class SplitFeedForward(nn.Module):
    """A feed-forward network, from shape (..., dim) to (..., dim); the last ``N_CHANNELS`` in ``order`` are apart."""

    def __init__(self, inner: nn.Linear, function: nn.Module, outer: nn.Linear, order: Tensor) -> None:
        super().__init__()
        most, few = order[:-N_CHANNELS], order[-N_CHANNELS:]
        self._function = function
        self._inner, self._outer = _rows(inner, most), _columns(outer, most, outer.bias)
        self._inner_apart, self._outer_apart = _rows(inner, few), _columns(outer, few, None)

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self._outer(self._function(self._inner(states)))
        apart: Tensor = self._outer_apart(self._function(self._inner_apart(states)))
        return found + apart


def splits(model: PreTrainedModel) -> bool:
    """Return True for a model of BERT's design with several layers and enough channels."""
    if not has_berts_design(model) or Design.of(model).layers == 1:
        return False
    return _inner(model).out_features > N_CHANNELS


@contextmanager
def split_first_layer(model: PreTrainedModel, texts: Sequence[Encoded]) -> Iterator[None]:
    """Split the feed-forward network of the first layer: apart are the channels with the greatest values on texts."""
    design = Design.of(model)
    names, layer = design.names, model.get_submodule(design.names.layers.format(0))
    inner, outer = _inner(model), layer.get_submodule(names.outer)
    assert isinstance(outer, nn.Linear)
    function = ACT2FN[activation(model.config)]
    split = SplitFeedForward(inner, function, outer, _greatest(model, inner, function, texts).argsort())
    with ExitStack() as swapped:
        for name, module in ((names.inner, nn.Identity()), (names.activation, nn.Identity()), (names.outer, split)):
            swapped.enter_context(_swapped(layer, name, module))
        yield


def _inner(model: PreTrainedModel) -> nn.Linear:
    names = Design.of(model).names
    found = model.get_submodule(f"{names.layers.format(0)}.{names.inner}")
    assert isinstance(found, nn.Linear)
    return found


def _greatest(model: PreTrainedModel, inner: nn.Linear, function: nn.Module, texts: Sequence[Encoded]) -> Tensor:
    """Return the greatest absolute value of each inner channel over all tokens, of shape (channels,)."""
    found = torch.zeros(inner.out_features)

    def look(_module: nn.Module, _given: object, states: Tensor) -> None:
        torch.maximum(found, function(states).abs().flatten(0, -2).amax(0), out=found)

    handle = inner.register_forward_hook(look)
    try:
        with torch.inference_mode():
            for text in texts:
                model(**{name: torch.tensor([text.feature(name)]) for name in text.features})
    finally:
        handle.remove()
    return found


@contextmanager
def _swapped(layer: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    parent, _, attribute = name.rpartition(".")
    owner = layer.get_submodule(parent)
    before = getattr(owner, attribute)
    setattr(owner, attribute, module)
    try:
        yield
    finally:
        setattr(owner, attribute, before)


def _rows(linear: nn.Linear, channels: Tensor) -> nn.Linear:
    """Return the part of a linear layer that gives these channels."""
    return _linear(linear.weight[channels], linear.bias[channels])


def _columns(linear: nn.Linear, channels: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return the part of a linear layer that reads these channels, with this bias."""
    return _linear(linear.weight[:, channels], bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    made = nn.Linear(inputs, outputs, bias=bias is not None)
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return made
