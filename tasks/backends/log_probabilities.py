"""The log-probabilities of the tokens that a model writes, as transformers' ``compute_transition_scores`` gives them.

They are those of its ``output_logits`` with ``normalize_logits``: before any processor changed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tasks.outputs import Likelihood


@dataclass(frozen=True, slots=True)
class Written:
    """The token ids of an output, and the log-probabilities of those that the model chose, where they are known.

    A token that the settings force is not chosen.
    """

    ids: Sequence[int]
    likelihood: Likelihood | None = None


def of_chosen(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the log-probability (rows,) of a token (rows,) by the logits of its row, (rows, vocabulary), float32."""
    # In one pass over the logits, which logsumexp makes several of.
    return logits.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]


@dataclass(slots=True)
class Tally:
    """The log-probabilities of the tokens of one output, as it is written."""

    total: float = 0.0
    least: float = 0.0
    tokens: int = 0

    def add(self, log_probability: float) -> None:
        self.total += log_probability
        self.least = min(self.least, log_probability)
        self.tokens += 1

    @property
    def likelihood(self) -> Likelihood:
        return Likelihood(self.total, self.least, self.tokens)
