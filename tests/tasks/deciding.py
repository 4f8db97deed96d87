"""Equality with a reference model's outputs, except where rounding decides.

If two tokens are nearly as likely, rounding chooses between them. It differs between processors, batches and
libraries, so such an output does not test our code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import eq
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from transformers import PreTrainedModel

# About a hundred times the error of a product of matrices in float32.
NOISE = 1e-5
SEEDS = range(10)
Output = TypeVar("Output")
Same = Callable[[Any, Any], bool]


@contextmanager
def disturbed(seed: int, noise: float = NOISE) -> Iterator[None]:
    """Change each weight of the transformers models that compute meanwhile by about ``noise`` of its size."""
    call_model = PreTrainedModel.__call__
    originals: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    chance = torch.Generator().manual_seed(seed)

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        for weight in self.parameters():
            if weight.is_floating_point() and id(weight) not in originals:
                originals[id(weight)] = (weight, weight.detach().clone())
                weight.data *= 1 + noise * torch.randn(weight.shape, generator=chance)
        return call_model(self, *arguments, **options)

    try:
        with patch.object(PreTrainedModel, "__call__", call):
            yield
    finally:
        for weight, original in originals.values():
            weight.data.copy_(original)


def undecided(reference: Callable[[], Sequence[Any]], expected: Sequence[Any], same: Same = eq) -> set[int]:
    """Return the places of outputs that change if the weights of the reference are disturbed."""
    changing: set[int] = set()
    for seed in SEEDS:
        with disturbed(seed):
            disturbed_outputs = reference()
        changing |= {place for place, output in enumerate(disturbed_outputs) if not same(output, expected[place])}
    return changing


def require_equal(
    actual: Sequence[Output | None],
    reference: Callable[[], Sequence[Output]],
    *,
    same: Same = eq,
    expected: Sequence[Output] | None = None,
) -> Sequence[Output]:
    """Assert that outputs equal a reference's, which computes with models of transformers, and return the latter.

    Outputs may differ where the reference is undecided: at most a quarter, but always one. Pass ``expected`` if the
    reference's outputs are known already.
    """
    if expected is None:
        expected = reference()
    assert len(actual) == len(expected)
    differing = [place for place, output in enumerate(actual) if not same(output, expected[place])]
    if differing:
        decided = set(differing) - undecided(reference, expected, same)
        assert [(actual[place], expected[place]) for place in sorted(decided)] == []
        assert len(differing) <= max(1, len(expected) // 4)
    return expected
