"""Samples whose rows have generators of their own, so that no row depends on the rest of its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def drawn(scores: torch.Tensor, generators: Sequence[torch.Generator | None]) -> torch.Tensor:
    """Return a sample (rows,) from the scores of each row, (rows, vocabulary), drawn by its own generator.

    It is the sample of transformers' ``generate`` with the row alone and torch's generator in the same state.
    """
    shares = scores.softmax(dim=-1)
    draws = [
        torch.multinomial(line[None], 1, generator=generator)[0]
        for line, generator in zip(shares, generators, strict=True)
    ]
    return torch.cat(draws)
