"""The model's own code: the states and the head that it computes, and comparisons with it.

A classifier is split into its encoder and its head. A module that returns its input replaces the encoder in the
model; then the model's own ``forward`` pools, projects and classifies given states. Opening a model compares its
logits with those of the whole model. If its head reads more than the last hidden states, the model stays whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from docmill.tasks.backends.encoder.batches import short_window
from docmill.tasks.backends.encoder.heads import EncoderModel, OutputForm, ReferenceStates, StatesOf
from docmill.tasks.backends.tokens import Tokens, padded
from docmill.tasks.kinds.base import Traits
from docmill.tasks.models import families
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import ModelOutput

log = logging.getLogger("docmill.backends")

# The largest distance of a token's state from that of the model's own code, relative to its length. Measured: 2e-6 in
# float32 and 0.014 in bfloat16, which itself is 0.02 away from float32, and more in deeper models. A model that is
# opened without its weights may be in float64.
TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
# Lengths in tokens of the compared texts; the two texts of one length go through attention together. One more text is
# so long that the padding of the others reaches beyond the span of local attention.
_LENGTHS = (3, 9, 9, 24)
_LEAST_LONGEST = 96
# Names in configurations for the span of local attention, in tokens.
_SPANS = ("local_attention", "sliding_window", "attention_window")
# Two windows of different lengths, so that one is padded.
_TWO_TEXTS = ("A word.", "The text that is compared, with some more words than the other.")

NumbersOf = Callable[[Mapping[str, Tensor]], Tensor]


def own_states(encoder: PreTrainedModel, tokens: Tokens) -> StatesOf:
    """Return a function that computes the last hidden states by the encoder's own code, on padded batches."""

    def states_of(batch: Sequence[Encoded]) -> dict[str, Tensor]:
        features = {name: value.to(encoder.device) for name, value in padded(batch, tokens).items()}
        states = encoder(**features).last_hidden_state.float()
        return {"token_embeddings": states, "attention_mask": features["attention_mask"]}

    return states_of


class GivenStates(nn.Module):
    """A module in place of an encoder: it returns its input as states, and pools them if the encoder did."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPooling:
        pooled = self.pooler(inputs_embeds) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


def take_apart(model: PreTrainedModel, tokens: Tokens, limit_tokens: int, form: OutputForm) -> EncoderModel:
    """Return a classifier as its encoder and its head, which computes in float32.

    The head reads the last hidden states. If the model stays whole, the head returns its logits.
    """
    model.requires_grad_(requires_grad=False)
    with torch.inference_mode():
        encoder = _encoder(model, tokens)
    if encoder is not None:
        states, head = own_states(encoder, tokens), _head_logits(model)
    else:
        states, head = _own_logits(model, tokens), itemgetter("logits")
    return EncoderModel(tokens, limit_tokens, encoder, states, head, form, Traits(), "transformers")


def _encoder(model: PreTrainedModel, tokens: Tokens) -> PreTrainedModel | None:
    """Take the encoder out of a classifier, which keeps its head in float32, and return the encoder.

    Return None and leave the model unchanged if the head computes other logits from the last hidden states.
    """
    batch = tokens.encode(_TWO_TEXTS)
    expected = _own_logits(model, tokens)(batch)["logits"].float()
    encoder, dtype = model.base_model, model.dtype
    tolerance = TOLERANCES[dtype]
    pooler = getattr(encoder, "pooler", None)
    try:
        if pooler is not None:
            encoder.pooler = nn.Identity()  # some encoders call it without a test for None
        states = own_states(encoder, tokens)(batch)
        setattr(model, model.base_model_prefix, GivenStates(pooler))
        model.float()
        logits = _head_logits(model)(states)
        if torch.allclose(logits, expected, rtol=tolerance, atol=tolerance):
            return encoder
        reason = f"difference={(logits - expected).abs().max():.2g}"
    except Exception as error:  # whatever a head raises that reads more than the last hidden states
        reason = f"error={type(error).__name__}"
    log.info("head_not_taken_apart model=%s %s", model.config.model_type, reason)
    if pooler is not None:
        encoder.pooler = pooler
    setattr(model, model.base_model_prefix, encoder)
    model.to(dtype)
    return None


def _head_logits(model: PreTrainedModel) -> NumbersOf:
    def logits_of(states: Mapping[str, Tensor]) -> Tensor:
        return _logits(model(inputs_embeds=states["token_embeddings"], attention_mask=states["attention_mask"]))

    return logits_of


def _own_logits(model: PreTrainedModel, tokens: Tokens) -> StatesOf:
    """Return a function that computes the logits of a batch by the model's own code."""

    def states_of(batch: Sequence[Encoded]) -> dict[str, Tensor]:
        features = {name: value.to(model.device) for name, value in padded(batch, tokens).items()}
        return {"logits": _logits(model(**features)), "attention_mask": features["attention_mask"]}

    return states_of


def _logits(output: ModelOutput) -> Tensor:
    """Return the logits in a classifier's output. For question answering, start and end logits are side by side."""
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits), dim=-1)
    logits: Tensor = output.logits
    return logits


def compute_reference(
    model: PreTrainedModel,
    tolerance: float,
    texts: Sequence[Encoded] = (),
    *,
    first_only: bool = False,
    means: bool = False,
) -> ReferenceStates:
    """Return reference states by the model's own code, for comparison with an encoder that is to replace it.

    Without ``texts``, the texts have tokens from all of the vocabulary. With ``first_only`` the states are those of
    the first tokens. With ``means``, a comparison measures each text's mean state.
    """
    texts = texts or _make_texts(model.config)
    states = []
    with torch.inference_mode():
        for text in texts:
            features = {name: torch.tensor([[*text.feature(name)]], device=model.device) for name in text.features}
            states.append(model(**features).last_hidden_state[0].float().cpu().numpy())
    if first_only:
        states = [of_text[:1].copy() for of_text in states]
    return ReferenceStates(texts, states, tolerance, means=means)


def _make_texts(config: PretrainedConfig) -> list[Encoded]:
    """Return texts of a comparison's lengths, with tokens from all of the vocabulary."""
    most = config.vocab_size - 1
    rows = [[number * most // length for number in range(1, length + 1)] for length in compared_lengths(config)]
    return [Encoded(len(ids), {"input_ids": ids}) for ids in rows]


def compared_lengths(config: PretrainedConfig) -> tuple[int, ...]:
    """Return the lengths in tokens of a comparison's texts, which are padded as in a real batch."""
    limit = families.window_limit(config.to_dict())
    longest = min(limit, max(_LEAST_LONGEST, local_span(config) + 2 * max(_LENGTHS)))
    return tuple(min(length, limit) for length in (*_LENGTHS, longest))


def local_span(config: PretrainedConfig) -> int:
    """Return the longest span of a layer of local attention, in tokens; 0 if no layer has local attention."""
    spans = [getattr(config, name, None) for name in _SPANS]
    return max((max(span) if isinstance(span, list) else span for span in spans if span), default=0)


def reads_padding(model: EncoderModel, tolerance: float) -> bool:
    """Return True if padding changes a text's numbers by the model's own code.

    Convolutions, Fourier transforms and pooling over tokens read padding as a part of the text.
    """
    coder = model.coder
    (short,), long = coder.encode(["Some words."]), short_window(coder)
    if short.tokens >= long.tokens:
        return False
    with torch.inference_mode():
        alone, beside = _compute_numbers(model, [short]), _compute_numbers(model, [short, long])
    return not all(_are_near(rows, own, tolerance) for rows, own in zip(beside, alone, strict=True))


def _are_near(rows: Tensor, own: Tensor, tolerance: float) -> bool:
    """Return True for rows that differ by at most ``tolerance`` times the length of the longest row."""
    if rows.shape != own.shape:  # states that were pooled together with padding
        return False
    return bool((rows - own).norm(dim=-1).max() <= tolerance * own.norm(dim=-1).max())


def _compute_numbers(model: EncoderModel, batch: Sequence[Encoded]) -> list[Tensor]:
    """Return the states of a batch's first text without padding, and its vector if the head makes vectors."""
    states = model.own_states(batch)
    mask = states.get("attention_mask")
    numbers = []
    for values in states.values():
        if isinstance(values, Tensor) and values.is_floating_point():
            row = values[0]
            if mask is not None and values.shape[:2] == mask.shape:
                row = row[mask[0].bool()]
            numbers.append(row.float())
    return [*numbers, model.head(states)[0].float()] if model.form["type"] == "vectors" else numbers
