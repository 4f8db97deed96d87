"""The first token's state, computed without the other tokens' last ones, is that of the model's own code."""

from __future__ import annotations

import pytest
import torch
import transformers

from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder.converted.first_states import FirstStates
from tests.tasks.backends.encoder.test_packed import CONFIGS, TEXTS


@pytest.mark.parametrize("name", CONFIGS)
def test_states_of_a_padded_batch_are_the_models_own_and_the_model_is_as_before(name: str) -> None:
    torch.manual_seed(3)
    longest = max(map(len, TEXTS))
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in TEXTS])
    rows = torch.tensor([ids + [1] * (longest - len(ids)) for ids in TEXTS])
    with quiet(), torch.inference_mode():
        model = transformers.AutoModel.from_config(CONFIGS[name]).eval()
        expected = model(input_ids=rows, attention_mask=mask).last_hidden_state
        found = FirstStates(model, ["input_ids", "attention_mask"])(rows, mask)
        again = model(input_ids=rows, attention_mask=mask).last_hidden_state
    assert torch.allclose(found, expected[:, :1], atol=2e-6)
    assert torch.equal(again, expected)
