"""The head of extractive question answering: a start and an end score for each token of a window.

A window is read beside a question, as a pair. The model's own code computes the head
(``tasks.backends.encoder.own_heads``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModelForQuestionAnswering

from tasks.backends import Assignment
from tasks.backends.encoder.heads import EncoderModel
from tasks.backends.encoder.own_heads import taken_apart
from tasks.backends.encoder.placed_tokens import PlacedTokens
from tasks.backends.generation_files import Opening
from tasks.backends.tokens import TokenCoder
from tasks.kinds.answer import require_room
from tasks.kinds.base import Traits
from tasks.models import families
from tasks.outputs import Output, SpanScores
from tasks.windows.windows import Encoded


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a model for question answering. Raises WeightsMissing, ModelUnsuitable and CannotServe."""
    spec, device = assignment.spec, assignment.device
    opening = Opening.of(spec, assignment.folder, assignment.cache_dir)
    tokens = PlacedTokens.of(opening)
    model = opening.model(AutoModelForQuestionAnswering, dtype).to(device)
    asked = spec.params.get("window_tokens")
    limit = tokens.checked_limit(families.window_limit(model.config.to_dict(), tokens.stated_limit), asked)
    # As in transformers, a question stands where padding does not.
    first = tokens.tokenizer.padding_side == "right"

    def pairs(question: str) -> TokenCoder:
        return TokenCoder(tokens.paired(question, first=first), limit)

    require_room(spec.params, pairs)
    parts = taken_apart(model, tokens, device, dtype)
    null_token = tokens.tokenizer.cls_token_id

    def outputs(batch: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        logits = parts.logits_of(states).float().cpu()
        mask = states["attention_mask"].bool().cpu()
        return [_scores(one, rows[real], null_token) for one, rows, real in zip(batch, logits, mask, strict=True)]

    return EncoderModel(tokens, limit, parts.encoder, parts.own_states, outputs, Traits(pairs=pairs), "transformers")


def _scores(window: Encoded, logits: Tensor, null_token: int | None) -> SpanScores:
    """Return the scores of a window's tokens from its logits (tokens, 2), those of the question left out."""
    places = window.places
    assert places is not None
    of_text = logits[places.leading : places.leading + len(places)]
    at = next((number for number, token in enumerate(window.ids) if token == null_token), None)
    null = None if at is None else float(logits[at, 0] + logits[at, 1])
    return SpanScores(of_text[:, 0].numpy(), of_text[:, 1].numpy(), null)
