"""Estimate the time of a model's arithmetic alone: its operations divided by the speed of large matrix products."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

_SIZE = 2048
_REPEATS = 5


@dataclass(frozen=True)
class Encoder:
    """The sizes of an encoder of BERT's design."""

    layers: int
    dim: int
    inner: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Encoder:
        """Return the sizes that a model's config.json states."""
        return cls(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])

    def operations(self, lengths: Iterable[int]) -> float:
        """Return the number of multiplications and additions for texts of these lengths in tokens, without padding.

        In each layer, a token takes four products of dim × dim and two of dim × inner. A text takes two of
        length × length × dim.
        """
        per_token = 2 * (4 * self.dim**2 + 2 * self.dim * self.inner)
        per_text = [length * per_token + 4 * self.dim * length**2 for length in lengths]
        return float(self.layers * sum(per_text))


def peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """Return the operations per second of a large matrix product in this precision: the best of five runs.

    On a CPU, the product uses all threads of torch.
    """
    on_gpu = device.startswith("cuda")
    size = _SIZE * 4 if on_gpu else _SIZE
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    best_s = float("inf")
    with torch.inference_mode():
        for _ in range(_REPEATS):
            began = time.perf_counter()
            functional.linear(left, right)
            if on_gpu:
                torch.cuda.synchronize()
            best_s = min(best_s, time.perf_counter() - began)
    return 2.0 * size**3 / best_s
