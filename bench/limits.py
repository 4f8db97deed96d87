"""Estimate the time of the arithmetic alone: a model's operations over this machine's fastest matrix products."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

_SIDE = 2048
_REPEATS = 5


@dataclass(frozen=True)
class Encoder:
    """The sizes of an encoder of BERT's design."""

    layers: int
    dim: int
    inner: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Encoder:
        return cls(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])

    def operations(self, lengths: Iterable[int]) -> float:
        """Multiplications and additions for texts of so many tokens, without padding: four products of dim × dim
        and two of dim × inner for each token, and two of length × length × dim for each text."""
        per_token = 2 * (4 * self.dim**2 + 2 * self.dim * self.inner)
        per_text = [length * per_token + 4 * self.dim * length**2 for length in lengths]
        return float(self.layers * sum(per_text))


def peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """Return the operations a second of a large product in this precision: the best of some.

    On a CPU it runs on all threads of torch.
    """
    on_gpu = device.startswith("cuda")
    side = _SIDE * 4 if on_gpu else _SIDE
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    best_s = float("inf")
    with torch.inference_mode():
        for _ in range(_REPEATS):
            began = time.perf_counter()
            functional.linear(left, right)
            if on_gpu:
                torch.cuda.synchronize()
            best_s = min(best_s, time.perf_counter() - began)
    return 2.0 * side**3 / best_s
