"""Comparisons of a fast encoder with the model's own code, and of a text alone with the same text beside another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from docmill.tasks.backends.encoder.batch_tuning import short_window
from docmill.tasks.models import families
from docmill.tasks.outputs import Vector
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from docmill.tasks.backends.encoder.heads import EncoderModel, StatesOf

# Lengths in tokens of the texts that are compared; two of them go through attention together. One more text is so
# long that the others' padding lies further from their tokens than any layer of local attention sees.
_LENGTHS = (3, 9, 9, 24)
_LEAST_LONGEST = 96
# The names under which configurations keep how far a layer of local attention sees, in tokens.
_SPANS = ("local_attention", "sliding_window", "attention_window")
# How far a token's state may lie from that of the model's own code, in parts of its length. Measured: 2e-6 and 0.014;
# bfloat16 itself is 0.02 away from float32, and deeper models more.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


class Measure(StrEnum):
    """Measures of the distance between states: the most of a token's state, or of a text's mean state's direction."""

    STATES = "states"
    MEANS = "means"


@dataclass(frozen=True)
class Comparison:
    """Texts, and the states of shape (tokens, dim) that the model's own code gives each of them.

    A fast encoder may be ``tolerance`` away from them by the ``measure``.
    """

    texts: Sequence[Encoded]
    states: Sequence[Tensor]
    tolerance: float
    measure: Measure = Measure.STATES

    def distance(self, encoder: StatesOf) -> float:
        """Return how far the encoder's states are from the model's own; infinity if a state is not finite."""
        with torch.inference_mode():
            found = encoder(self.texts)
            padded, masks = found["token_embeddings"], found["attention_mask"].bool()
            if not padded.isfinite().all():  # of padding, too: a mean multiplies it by zero
                return math.inf
            of = _of_states if self.measure is Measure.STATES else _of_means
            rows = zip(padded, masks, self.states, strict=True)
            return float(torch.stack([of(row[mask], own.to(row.device)) for row, mask, own in rows]).max())


@dataclass(frozen=True)
class Proven:
    """A fast encoder that gave what the model's own code gave."""

    encoder: StatesOf
    comparison: Comparison


def compared(model: PreTrainedModel, tolerance: float, *, first_only: bool = False) -> Comparison:
    """Return the comparison of an encoder in place of ``model``, whose own code computes the states for it.

    With ``first_only`` they are those of the first tokens.
    """
    most = model.config.vocab_size - 1
    rows = [[number * most // length for number in range(1, length + 1)] for length in compared_lengths(model.config)]
    texts = [Encoded(len(ids), {"input_ids": ids}) for ids in rows]
    with torch.inference_mode():
        given = [torch.tensor([ids], device=model.device) for ids in rows]
        states = [model(input_ids=ids).last_hidden_state[0].float() for ids in given]
    if first_only:
        states = [one[:1].clone() for one in states]
    return Comparison(texts, states, tolerance)


def compared_lengths(config: PretrainedConfig) -> tuple[int, ...]:
    """Return the lengths in tokens of a comparison's texts, which are padded as those of a real batch are."""
    limit = families.window_limit(config.to_dict())
    longest = min(limit, max(_LEAST_LONGEST, local_span(config) + 2 * max(_LENGTHS)))
    return tuple(min(length, limit) for length in (*_LENGTHS, longest))


def local_span(config: PretrainedConfig) -> int:
    """Return the most tokens that a layer of local attention sees; 0 where all layers see everything."""
    spans = [getattr(config, name, None) for name in _SPANS]
    return max((max(span) if isinstance(span, list) else span for span in spans if span), default=0)


def reads_padding(model: EncoderModel, tolerance: float) -> bool:
    """Return True if a text gets other numbers from the model's own code beside a longer text, which pads it.

    Convolutions, Fourier transforms and pooling over tokens take padding for a part of the text.
    """
    coder = model.coder
    (short,), long = coder.encode(["Some words."]), short_window(coder)
    if short.tokens >= long.tokens:
        return False
    with torch.inference_mode():
        alone, beside = _numbers(model, [short]), _numbers(model, [short, long])
    return not all(_near(one, other, tolerance) for one, other in zip(beside, alone, strict=True))


def _near(found: Tensor, own: Tensor, tolerance: float) -> bool:
    """Return True for rows that differ by less than a part ``tolerance`` of the longest row."""
    if found.shape != own.shape:  # states that were pooled together with padding
        return False
    return bool((found - own).norm(dim=-1).max() <= tolerance * own.norm(dim=-1).max())


def _numbers(model: EncoderModel, batch: Sequence[Encoded]) -> list[Tensor]:
    """Return the states of a batch's first text without padding, and the vector that a head makes of them."""
    states = model.own_states(batch)
    mask = states.get("attention_mask")
    found = []
    for values in states.values():
        if isinstance(values, Tensor) and values.is_floating_point():
            row = values[0]
            if mask is not None and values.shape[:2] == mask.shape:
                row = row[mask[0].bool()]
            found.append(row.float())
    output = model.outputs(batch, states)[0]
    return [*found, torch.from_numpy(output.values)] if isinstance(output, Vector) else found


def _of_states(found: Tensor, own: Tensor) -> Tensor:
    distances: Tensor = (found - own).norm(dim=-1) / own.norm(dim=-1)
    return distances.max()


def _of_means(found: Tensor, own: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(found.sum(0), own.sum(0), dim=0)
