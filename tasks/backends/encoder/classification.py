"""The head of a sequence classifier: a score for each label of a window.

The model's own code computes the head (``tasks.backends.encoder.own_heads``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from storage.search.knn import cosines
from tasks.backends import Assignment
from tasks.backends.encoder.heads import EncoderModel
from tasks.backends.encoder.own_heads import taken_apart
from tasks.backends.generation_files import Opening
from tasks.backends.tokens import TokenCoder, Tokens
from tasks.errors import CannotServe
from tasks.kinds import suitability
from tasks.kinds.base import Traits
from tasks.kinds.classify import hypotheses
from tasks.kinds.entailment import CONTRADICTION, ENTAILMENT
from tasks.models import families
from tasks.models.encoders import Description
from tasks.outputs import Labels, Output, Vector
from tasks.windows.windows import Encoded


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
    parts = taken_apart(model, tokens, device, dtype)

    def outputs(_: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        return labels_of(parts.logits_of(states).float())

    return EncoderModel(tokens, limit, parts.encoder, parts.own_states, outputs, traits, "transformers")


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
