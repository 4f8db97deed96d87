"""A difference from a reference counts where the reference is decided."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel

from tests.tasks.deciding import require_equal, undecided

CLEAR, TIED = [1.0, 1.1], [1.0, 1.0000002]


class Choices(PreTrainedModel):  # type: ignore[misc]
    """Chooses one of two for each row of its weights."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__(PretrainedConfig())
        self.weights = torch.nn.Parameter(torch.tensor(weights))

    def forward(self) -> Any:
        return self.weights.argmax(dim=-1)

    def chosen(self) -> list[int]:
        found: list[int] = self().tolist()
        return found


def test_an_output_may_differ_only_where_the_reference_is_undecided() -> None:
    model = Choices([CLEAR, CLEAR, TIED, CLEAR])
    before = model.weights.detach().clone()
    assert undecided(model.chosen, [1, 1, 1, 1]) == {2}
    assert require_equal([1, 1, 0, 1], model.chosen) == [1, 1, 1, 1]
    assert torch.equal(model.weights, before)
    with pytest.raises(AssertionError):
        require_equal([0, 1, 1, 1], model.chosen)


def test_at_most_a_quarter_of_the_outputs_may_differ() -> None:
    with pytest.raises(AssertionError):
        require_equal([1, 0, 0, 1], Choices([CLEAR, TIED, TIED, CLEAR]).chosen)
