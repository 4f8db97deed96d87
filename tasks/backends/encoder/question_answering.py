"""The head of extractive question answering: a start and an end score for each token of a window.

A window is read beside a question, as a pair. The model's own code computes the head
(``tasks.backends.encoder.own_heads``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder.heads import EncoderModel
from docmill.tasks.backends.encoder.kept_heads import KeptHead, linears, span_scores
from docmill.tasks.backends.tokens import pairs
from docmill.tasks.kinds.answer import require_room
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded

_QUESTION = "Which words?"


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a model for question answering. Raises WeightsMissing, ModelUnsuitable and CannotServe."""
    from transformers import AutoModelForQuestionAnswering

    from docmill.tasks.backends.encoder.own_heads import taken_apart
    from docmill.tasks.backends.encoder.placed_tokens import PlacedTokens
    from docmill.tasks.backends.generation_files import Opening

    spec, device = assignment.spec, assignment.device
    opening = Opening.of(spec, assignment.folder, assignment.cache_dir)
    tokens = PlacedTokens.of(opening)
    model = opening.model(AutoModelForQuestionAnswering, dtype).to(device)
    asked = spec.params.get("window_tokens")
    limit = tokens.checked_limit(families.window_limit(model.config.to_dict(), tokens.stated_limit), asked)
    # As in transformers, a question stands where padding does not.
    first = tokens.tokenizer.padding_side == "right"

    beside = pairs(tokens, limit, first=first)
    require_room(spec.params, beside)
    # Some models take questions alone: Longformer looks for the tokens that separate one from its text.
    parts = taken_apart(model, tokens.paired(_QUESTION, first=first), device, dtype)
    null_token = tokens.tokenizer.cls_token_id

    def outputs(batch: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        return span_scores(batch, states, parts.logits_of(states), null_token)

    kept = None
    if parts.encoder is not None and (products := linears(model)) is not None:
        activations, tensors, of_first = products
        settings = {"type": "spans", "activations": activations, "of_first": of_first}
        kept = KeptHead({**settings, "null_token": null_token, "question_first": first}, tensors)
    return EncoderModel(
        tokens, limit, parts.encoder, parts.own_states, outputs, Traits(pairs=beside), "transformers", kept
    )
