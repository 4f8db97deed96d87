"""The next token of each row from its logits: the likeliest, or a sample that depends on nothing but its own row.

It is here for repeatable outputs, not for speed: a sample of transformers' own depends on the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tasks.backends.decoding import Decoding


def penalized(logits: torch.Tensor, seen: Sequence[Sequence[int]], penalty: float) -> torch.Tensor:
    """The logits (rows, vocabulary) with those of tokens that a row has seen made less likely (Keskar et al. 2019,
    section 4.1)."""
    for row, ids in zip(logits, seen, strict=True):
        places = torch.tensor(list(set(ids)), device=logits.device)
        scores = row[places]
        row[places] = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits


def next_tokens(logits: torch.Tensor, decoding: Decoding, chances: Sequence[float]) -> list[int]:
    """One token for each row of ``logits`` (rows, vocabulary), float32; ``chances`` are in [0, 1), one a row.

    The chance points into the row's probabilities, the likeliest first, so that what else is in the batch has no part
    in the choice.
    """
    if not decoding.sampled:
        return list(logits.argmax(dim=-1).tolist())
    width = min(decoding.top_k or logits.shape[-1], logits.shape[-1])
    scores, tokens = (logits / decoding.temperature).topk(width, dim=-1)
    shares = scores.softmax(dim=-1).double().cumsum(dim=-1)
    reach = shares[:, -1:]
    if decoding.top_p < 1:
        held = (shares < decoding.top_p).sum(dim=-1, keepdim=True).clamp(max=width - 1)
        reach = shares.gather(1, held)
    chance = torch.tensor(chances, dtype=torch.float64, device=logits.device).unsqueeze(1)
    chosen = torch.searchsorted(shares, chance * reach, right=True).clamp(max=width - 1)
    return list(tokens.gather(1, chosen).squeeze(1).tolist())
