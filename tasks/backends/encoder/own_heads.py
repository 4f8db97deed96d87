"""Heads that the code of a model computes: a classifier taken apart into its encoder and the rest.

The encoder in the model is replaced by a module that gives the states which it is given: after it the model's own
``forward`` pools, projects and classifies. Each model that is opened is compared with its own code first; a model
whose head wants more than the last hidden states is computed as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from docmill.tasks.backends.encoder.comparison import TOLERANCES
from docmill.tasks.backends.encoder.heads import StatesOf, own_states
from docmill.tasks.backends.tokens import Tokens, padded
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import ModelOutput

log = logging.getLogger("docmill.backends")

# Two windows of different lengths, so that one is padded.
_COMPARED = ("A word.", "The text that is compared, with some more words than the other.")


class GivenStates(nn.Module):
    """A module in the place of an encoder: it gives the states that come as embeddings, and pools them if it did."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPooling:
        pooled = self.pooler(inputs_embeds) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


@dataclass(frozen=True)
class Parts:
    """A classifier's encoder, None if the model computes as a whole, and its head.

    ``own_states`` computes what ``logits_of`` reads by the model's own code: the last hidden states, or the logits.
    """

    encoder: PreTrainedModel | None
    own_states: StatesOf
    logits_of: Callable[[Mapping[str, Tensor]], Tensor]


def taken_apart(model: PreTrainedModel, tokens: Tokens, device: str, dtype: torch.dtype) -> Parts:
    """Return the parts of a classifier whose encoder computes in ``dtype``; its head computes in float32."""
    with torch.inference_mode():
        encoder = _encoder(model, tokens, device, TOLERANCES[dtype])
    if encoder is None:
        return Parts(None, _own_logits(model, tokens, device), _given_logits)
    return Parts(encoder, own_states(encoder, tokens, device), _head_logits(model))


def _encoder(model: PreTrainedModel, tokens: Tokens, device: str, tolerance: float) -> PreTrainedModel | None:
    """Return the encoder of a classifier, which keeps the head alone, in float32.

    None, and the model as it was, if the head does not give the model's own logits from the last hidden states.
    """
    batch = tokens.encode(_COMPARED)
    features = {name: value.to(device) for name, value in padded(batch, tokens).items()}
    expected = _logits(model(**features)).float()
    encoder, dtype = model.base_model, model.dtype
    pooler = getattr(encoder, "pooler", None)
    try:
        if pooler is not None:
            encoder.pooler = nn.Identity()  # some encoders call it without asking for it
        states = own_states(encoder, tokens, device)(batch)
        setattr(model, model.base_model_prefix, GivenStates(pooler))
        model.float()
        found = _head_logits(model)(states)
        if torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
            return encoder
        reason = f"difference={(found - expected).abs().max():.2g}"
    except Exception as error:  # whatever a head raises that wants more than the last hidden states
        reason = f"error={type(error).__name__}"
    log.info("head_not_taken_apart model=%s %s", model.config.model_type, reason)
    if pooler is not None:
        encoder.pooler = pooler
    setattr(model, model.base_model_prefix, encoder)
    model.to(dtype)
    return None


def _head_logits(model: PreTrainedModel) -> Callable[[Mapping[str, Tensor]], Tensor]:
    def logits_of(states: Mapping[str, Tensor]) -> Tensor:
        return _logits(model(inputs_embeds=states["token_embeddings"], attention_mask=states["attention_mask"]))

    return logits_of


def _own_logits(model: PreTrainedModel, tokens: Tokens, device: str) -> StatesOf:
    """Return a function that computes the logits of a batch by the model's own code."""

    def states_of(batch: Sequence[Encoded]) -> dict[str, Tensor]:
        features = {name: value.to(device) for name, value in padded(batch, tokens).items()}
        return {"logits": _logits(model(**features)), "attention_mask": features["attention_mask"]}

    return states_of


def _logits(output: ModelOutput) -> Tensor:
    """Return the logits in a classifier's output; of question answering those of start and end, side by side."""
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits), dim=-1)
    logits: Tensor = output.logits
    return logits


def _given_logits(states: Mapping[str, Tensor]) -> Tensor:
    return states["logits"]
