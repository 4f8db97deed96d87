"""The head of a token classifier: a score for each label of each token.

The model's own code computes the head (``tasks.backends.encoder.own_heads``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification

from tasks.backends import Assignment
from tasks.backends.encoder.heads import EncoderModel
from tasks.backends.encoder.own_heads import taken_apart
from tasks.backends.encoder.placed_tokens import PlacedTokens
from tasks.backends.generation_files import Opening
from tasks.kinds.base import Traits
from tasks.models import families
from tasks.outputs import Output, TokenScores
from tasks.windows.windows import Encoded


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a token classifier. Raises WeightsMissing, ModelUnsuitable and CannotServe."""
    spec, device = assignment.spec, assignment.device
    opening = Opening.of(spec, assignment.folder, assignment.cache_dir)
    tokens = PlacedTokens.of(opening)
    model = opening.model(AutoModelForTokenClassification, dtype).to(device)
    config = model.config
    limit = tokens.checked_limit(
        families.window_limit(config.to_dict(), tokens.stated_limit), spec.params.get("window_tokens")
    )
    labels = [str(config.id2label[number]) for number in range(config.num_labels)]
    parts = taken_apart(model, tokens, device, dtype)

    def outputs(batch: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        scores = parts.logits_of(states).float().softmax(-1).cpu()
        mask = states["attention_mask"].bool().cpu()
        return [
            TokenScores(labels, _of_text(one, rows[real]))
            for one, rows, real in zip(batch, scores, mask, strict=True)
        ]

    return EncoderModel(tokens, limit, parts.encoder, parts.own_states, outputs, Traits(), "transformers")


def _of_text(encoded: Encoded, scores: Tensor) -> Any:
    """Return the scores (tokens, labels) of a window's tokens without special ones."""
    places = encoded.places
    assert places is not None
    return scores[places.leading : places.leading + len(places)].numpy()
