"""A feed-forward network whose outlier channels are apart is the same network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder.converted.outlier_channels import (
    N_CHANNELS,
    SplitFeedForward,
    split_first_layer,
    splits,
)
from docmill.tasks.backends.encoder.packed import Design
from docmill.tasks.windows.windows import Encoded
from tests.tasks.backends.encoder.test_packed import CONFIGS, DISTILLED, SIZES, TEXTS

ENCODED = [Encoded(len(ids), {"input_ids": ids}) for ids in TEXTS]


def made(config: Any) -> Any:
    torch.manual_seed(3)
    with quiet():
        return transformers.AutoModel.from_config(config).eval()


def states(model: Any) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([ids])).last_hidden_state for ids in TEXTS]


def first_layer(model: Any) -> nn.Module:
    found: nn.Module = model.get_submodule(Design.of(model).names.layers.format(0))
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_states_are_the_models_own_and_the_model_is_as_before(name: str) -> None:
    model = made(CONFIGS[name])
    assert splits(model)
    expected, names = states(model), [*model.state_dict()]
    with split_first_layer(model, ENCODED):
        found = states(model)
        assert any(isinstance(module, SplitFeedForward) for module in first_layer(model).modules())
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=2e-6)
    assert [*model.state_dict()] == names
    assert all(map(torch.equal, states(model), expected))


@pytest.mark.parametrize("name", ["bert-relu", "distilbert"])
def test_channels_with_the_greatest_values_are_apart(name: str) -> None:
    model = made(CONFIGS[name])
    names, layer = Design.of(model).names, first_layer(model)
    inner, outer = layer.get_submodule(names.inner), layer.get_submodule(names.outer)
    assert isinstance(inner, nn.Linear)
    assert isinstance(outer, nn.Linear)
    wide = [*range(3, 3 + 5 * N_CHANNELS, 5)]
    with torch.no_grad():
        inner.weight[wide] *= 100
    with split_first_layer(model, ENCODED):
        apart = layer.get_submodule(names.outer).get_submodule("_outer_apart")
        assert isinstance(apart, nn.Linear)
        assert sorted(map(tuple, apart.weight.T.tolist())) == sorted(map(tuple, outer.weight.T[wide].tolist()))
        assert apart.bias is None


def test_the_network_is_put_back_when_its_tracing_fails() -> None:
    model = made(CONFIGS["bert"])
    before = states(model)
    with pytest.raises(RuntimeError, match="tracing"), split_first_layer(model, ENCODED):
        raise RuntimeError("tracing")
    assert all(map(torch.equal, states(model), before))


@pytest.mark.parametrize(
    "config",
    [
        transformers.BertConfig(vocab_size=50, **(SIZES | {"num_hidden_layers": 1})),
        transformers.DistilBertConfig(vocab_size=50, **(DISTILLED | {"hidden_dim": N_CHANNELS})),
        transformers.ElectraConfig(vocab_size=50, **SIZES),
    ],
    ids=["one layer", "few channels", "another design"],
)
def test_other_models_are_not_split(config: Any) -> None:
    assert not splits(made(config))
