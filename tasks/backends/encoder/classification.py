"""The head of a sequence classifier: a score for each label of a window.

The model's own code computes the head. For that, the encoder in the model is replaced by a module that gives the
states which it is given: after it the model's own ``forward`` pools, projects and classifies. Each model that is
opened is compared with its own code first; a model whose head wants more than the last hidden states is computed
as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPooling

from storage.search.knn import cosines
from tasks.backends import Assignment
from tasks.backends.encoder.heads import EncoderModel, StatesOf, own_states
from tasks.backends.encoder.packed import TOLERANCES
from tasks.backends.generation_files import Opening
from tasks.backends.tokens import TokenCoder, Tokens, padded
from tasks.errors import CannotServe
from tasks.kinds import suitability
from tasks.kinds.base import Traits
from tasks.kinds.classify import hypotheses
from tasks.kinds.entailment import CONTRADICTION, ENTAILMENT
from tasks.models import families
from tasks.models.encoders import Description
from tasks.outputs import Labels, Output, Vector
from tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")

# Two windows of different lengths, so that one is padded.
_COMPARED = ("A word.", "The text that is compared, with some more words than the other.")


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a sequence classifier, or for labels that a user gives an NLI model or an embedding model.

    Raises WeightsMissing, ModelUnsuitable and CannotServe.
    """
    spec, device = assignment.spec, assignment.device
    config = Description.of_folder(assignment.folder).config
    # Older embedding models keep their config.json with their first module.
    if suitability.headless(spec.kind, config, spec.params) or ("labels" in spec.params and not config):
        return by_vectors(assignment, dtype)
    opening = Opening.of(spec, assignment.folder, assignment.cache_dir)
    model = opening.model(AutoModelForSequenceClassification, dtype).to(device)
    tokens = Tokens(opening.tokenizer)
    asked = spec.params.get("window_tokens")
    limit = tokens.checked_limit(families.window_limit(model.config.to_dict(), tokens.stated_limit), asked)
    if "labels" in spec.params:
        labels_of = of_pairs(model.config, spec.model)
        for sentence in hypotheses(spec.params).values():
            tokens.paired(sentence).checked_limit(limit, asked)
        traits = Traits(pairs=lambda sentence: TokenCoder(tokens.paired(sentence), limit))
    else:
        labels_of = of_texts(model.config, multi_label=bool(spec.params.get("multi_label")))
        traits = Traits()
    with torch.inference_mode():
        encoder = taken_apart(model, tokens, device, TOLERANCES[dtype])
    logits_of = _head_logits(model) if encoder is not None else _given_logits

    def outputs(_: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        return labels_of(logits_of(states).float())

    own = own_states(encoder, tokens, device) if encoder is not None else own_logits(model, tokens, device)
    return EncoderModel(tokens, limit, encoder, own, outputs, traits, "transformers")


def of_texts(config: Any, *, multi_label: bool) -> Callable[[Tensor], list[Labels]]:
    """Return the function from logits (windows, labels) to scores."""
    names, scores = label_names(config), activation(config, multi_label=multi_label)
    return lambda logits: [Labels(dict(zip(names, row, strict=True))) for row in scores(logits).cpu().tolist()]


def of_pairs(config: Any, model: str) -> Callable[[Tensor], list[Labels]]:
    """Return the function from an NLI model's logits (pairs, labels) to those of entailment and contradiction."""
    places = families.entailment(config.to_dict())
    if places is None:
        raise CannotServe(f"{model} is no NLI model: none of its labels is entailment.")
    entailed, contradicted = places
    return lambda logits: [
        Labels({ENTAILMENT: row[entailed], CONTRADICTION: row[contradicted]}) for row in logits.cpu().tolist()
    ]


def by_vectors(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load an embedding model whose scores are the cosines of a window's vector with those of the labels."""
    from tasks.backends.encoder import pooling

    labels: Mapping[str, str] = assignment.spec.params["labels"]
    model = pooling.load(assignment, dtype)
    encoded = model.encode([*labels.values()])
    longest = max(one.tokens for one in encoded)
    if longest > model.limit_tokens:
        raise CannotServe(
            f"The longest label has {longest} tokens, and a window {model.limit_tokens}: shorten its description."
        )

    def vectors(batch: Sequence[Encoded], states: dict[str, Tensor]) -> Any:
        return np.stack([one.values for one in model.outputs(batch, states) if isinstance(one, Vector)])

    with torch.inference_mode():
        of_labels = vectors(encoded, model.own_states(encoded))

    def outputs(batch: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        rows = cosines(vectors(batch, states), of_labels).tolist()
        return [Labels(dict(zip(labels, row, strict=True))) for row in rows]

    return replace(model, outputs=outputs, traits=Traits())


def label_names(config: Any) -> list[str]:
    """Return the names of the labels in the order of the logits. Raises CannotServe if two are the same."""
    names = [str(config.id2label[number]) for number in range(config.num_labels)]
    if len({*names}) < len(names):
        raise CannotServe("Two labels of the model have the same name: give them different names in its config.json.")
    return names


def activation(config: Any, *, multi_label: bool) -> Callable[[Tensor], Tensor]:
    """Return the function from logits (windows, labels) to scores, as transformers' pipeline chooses it."""
    if multi_label:
        return torch.sigmoid
    if config.problem_type == "regression":
        return lambda logits: logits
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return torch.sigmoid
    return lambda logits: logits.softmax(-1)


class GivenStates(nn.Module):
    """A module in the place of an encoder: it gives the states that come as embeddings, and pools them if it did."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPooling:
        pooled = self.pooler(inputs_embeds) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


def taken_apart(model: Any, tokens: Tokens, device: str, tolerance: float) -> Any | None:
    """Return the encoder of a classifier, which keeps the head alone, in float32.

    None, and the model as it was, if the head does not give the model's own logits from the last hidden states.
    """
    batch = tokens.encode(_COMPARED)
    features = {name: value.to(device) for name, value in padded(batch, tokens).items()}
    expected = model(**features).logits.float()
    encoder, dtype = model.base_model, model.dtype
    pooler = getattr(encoder, "pooler", None)
    try:
        states = own_states(encoder, tokens, device)(batch)
        if pooler is not None:
            encoder.pooler = None
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


def _head_logits(model: Any) -> Callable[[Mapping[str, Tensor]], Tensor]:
    def logits_of(states: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = model(
            inputs_embeds=states["token_embeddings"], attention_mask=states["attention_mask"]
        ).logits
        return logits

    return logits_of


def own_logits(model: Any, tokens: Tokens, device: str) -> StatesOf:
    """Return a function that computes the logits of a batch by the model's own code."""

    def states_of(batch: Sequence[Encoded]) -> dict[str, Tensor]:
        features = {name: value.to(device) for name, value in padded(batch, tokens).items()}
        return {"logits": model(**features).logits}

    return states_of


def _given_logits(states: Mapping[str, Tensor]) -> Tensor:
    return states["logits"]
