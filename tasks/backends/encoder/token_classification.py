"""The head of a token classifier: a score for each label of each token.

The model's own code computes the head (``tasks.backends.encoder.own_heads``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder.heads import EncoderModel
from docmill.tasks.backends.encoder.kept_heads import KeptHead, linears, token_scores
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a token classifier. Raises WeightsMissing, ModelUnsuitable and CannotServe."""
    from transformers import AutoModelForTokenClassification

    from docmill.tasks.backends.encoder.own_heads import taken_apart
    from docmill.tasks.backends.encoder.placed_tokens import PlacedTokens
    from docmill.tasks.backends.generation_files import Opening

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
        return token_scores(labels, batch, states, parts.logits_of(states))

    kept = None
    if parts.encoder is not None and (products := linears(model)) is not None:
        activations, tensors, of_first = products
        settings = {"type": "token labels", "activations": activations, "of_first": of_first, "labels": labels}
        kept = KeptHead(settings, tensors)
    return EncoderModel(tokens, limit, parts.encoder, parts.own_states, outputs, Traits(), "transformers", kept)
