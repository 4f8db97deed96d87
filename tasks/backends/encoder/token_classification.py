"""The head of a token classifier: a score for each label of each token.

The model's own code computes the head (``tasks.backends.encoder.own_heads``).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification, BatchEncoding, PreTrainedTokenizerBase

from tasks.backends import Assignment
from tasks.backends.encoder.heads import EncoderModel
from tasks.backends.encoder.own_heads import taken_apart
from tasks.backends.generation_files import Opening
from tasks.backends.tokens import Tokens
from tasks.errors import CannotServe
from tasks.kinds.base import Traits
from tasks.models import families
from tasks.outputs import Output, TokenScores
from tasks.windows.places import Places
from tasks.windows.windows import Encoded


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a token classifier. Raises WeightsMissing, ModelUnsuitable and CannotServe."""
    spec, device = assignment.spec, assignment.device
    opening = Opening.of(spec, assignment.folder, assignment.cache_dir)
    if not opening.tokenizer.is_fast:
        raise CannotServe(
            f"{spec.kind} needs a fast tokenizer, which tells where tokens stand in a text; "
            f"{type(opening.tokenizer).__name__} of {spec.model} is a slow one. Use a model with a tokenizer.json."
        )
    tokens = PlacedTokens(opening.tokenizer)
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


class PlacedTokens(Tokens):
    """A fast tokenizer that also tells where the tokens of a text stand."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        marks = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        self._marks_words = bool(marks)
        super().__init__(tokenizer)

    def _places(self, features: BatchEncoding, row: int, text: str) -> Places:
        encoding = features.encodings[row]
        real = [number for number, special in enumerate(encoding.special_tokens_mask) if not special]
        leading = real[0] if real else len(encoding.ids)
        starts, ends, inside = array("i"), array("i"), array("b")
        unknown = self.tokenizer.unk_token_id
        # Each of these attributes makes a new list of all tokens.
        ids, names, offsets = encoding.ids, encoding.tokens, encoding.offsets
        for number in real:
            start, end = offsets[number]
            starts.append(start)
            ends.append(end)
            inside.append(ids[number] != unknown and self._goes_on(names[number], text, start, end))
        return Places(leading, starts, ends, inside)

    def _goes_on(self, token: str, text: str, start: int, end: int) -> bool:
        """Return True for a token that goes on with a word, as transformers' pipeline guesses it."""
        if self._marks_words:
            return len(token) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]


def _of_text(encoded: Encoded, scores: Tensor) -> Any:
    """Return the scores (tokens, labels) of a window's tokens without special ones."""
    places = encoded.places
    assert places is not None
    return scores[places.leading : places.leading + len(places)].numpy()
