"""The head of a sequence classifier: a score for each label of a window.

The model's own code computes the head (``tasks.backends.encoder.own_heads``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from docmill.tasks import kinds
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder.array_heads import near, stacked
from docmill.tasks.backends.encoder.heads import EncoderModel
from docmill.tasks.backends.encoder.kept_heads import KeptHead, Scoring, linears
from docmill.tasks.backends.tokens import Tokens, pairs
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.base import Traits
from docmill.tasks.kinds.classify import CONTRADICTION, ENTAILMENT, hypotheses
from docmill.tasks.models import families
from docmill.tasks.models.families import Description
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded


class Labelled(Protocol):
    """The configuration of a classifier in transformers."""

    @property
    def num_labels(self) -> int: ...
    @property
    def id2label(self) -> Mapping[int, str]: ...
    @property
    def problem_type(self) -> str | None: ...
    def to_dict(self) -> dict[str, Any]: ...


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a sequence classifier, or for labels that a user gives an NLI model or an embedding model.

    Raises WeightsMissing, ModelUnsuitable and CannotServe.
    """
    spec, device = assignment.spec, assignment.device
    config = Description.of_folder(assignment.folder).config
    # Older embedding models keep their config.json with their first module.
    if kinds.kind(spec.kind).is_headless(config, spec.params) or ("labels" in spec.params and not config):
        return by_vectors(assignment, dtype)
    from transformers import AutoModelForSequenceClassification

    from docmill.tasks.backends.encoder.own_heads import taken_apart
    from docmill.tasks.backends.generation_files import Opening

    opening = Opening.of(spec, assignment.folder, assignment.cache_dir)
    model = opening.model(AutoModelForSequenceClassification, dtype).to(device)
    tokens = Tokens(opening.tokenizer)
    asked = spec.params.get("window_tokens")
    limit = tokens.checked_limit(families.window_limit(model.config.to_dict(), tokens.stated_limit), asked)
    if "labels" in spec.params:
        scoring = of_pairs(model.config, spec.model)
        for sentence in hypotheses(spec.params).values():
            tokens.paired(sentence).checked_limit(limit, asked)
        traits = Traits(pairs=pairs(tokens, limit))
    else:
        scoring = of_texts(model.config, multi_label=bool(spec.params.get("multi_label")))
        traits = Traits()
    parts = taken_apart(model, tokens, device, dtype)

    def outputs(_: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        return scoring.labels(parts.logits_of(states))

    kept, reads_first = None, False
    if parts.encoder is not None and (products := linears(model)) is not None:
        activations, tensors, of_first = products
        settings = {"type": "labels", "activations": activations, "of_first": of_first, "scoring": asdict(scoring)}
        kept = KeptHead(settings, tensors)
        reads_first = of_first and tokens.pads_right
    return EncoderModel(
        tokens, limit, parts.encoder, parts.own_states, outputs, traits, "transformers", kept, reads_first
    )


def of_texts(config: Labelled, *, multi_label: bool) -> Scoring:
    """Return the scoring of a classifier's labels."""
    names = label_names(config)
    return Scoring(names, [*range(len(names))], scores(config, multi_label=multi_label))


def of_pairs(config: Labelled, model: str) -> Scoring:
    """Return the scoring of an NLI model's logits of pairs as those of entailment and contradiction."""
    places = families.entailment(config.to_dict())
    if places is None:
        raise CannotServe(f"{model} is no NLI model: none of its labels is entailment.")
    n_labels = config.num_labels
    return Scoring([ENTAILMENT, CONTRADICTION], [place % n_labels for place in places], "none")


def by_vectors(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load an embedding model whose scores are the cosines of a window's vector with those of the labels."""
    from docmill.tasks.backends.encoder import pooling

    labels: Mapping[str, str] = assignment.spec.params["labels"]
    model = pooling.load(assignment, dtype)
    encoded = model.encode([*labels.values()])
    longest = max(one.tokens for one in encoded)
    if longest > model.limit_tokens:
        raise CannotServe(
            f"The longest label has {longest} tokens, and a window {model.limit_tokens}: shorten its description."
        )
    with torch.inference_mode():
        of_labels = stacked([model.outputs([one], model.own_states([one]))[0] for one in encoded])

    def outputs(batch: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        return near([*labels], of_labels, model.outputs(batch, states))

    kept = None
    if model.kept is not None:
        settings = {**model.kept.settings, "type": "nearness", "labels": [*labels]}
        kept = KeptHead(settings, {**model.kept.tensors, "labels": torch.from_numpy(of_labels)})
    return replace(model, outputs=outputs, traits=Traits(), kept=kept)


def label_names(config: Labelled) -> list[str]:
    """Return the names of the labels in the order of the logits. Raises CannotServe if two are the same."""
    names = [str(config.id2label[number]) for number in range(config.num_labels)]
    if len({*names}) < len(names):
        raise CannotServe("Two labels of the model have the same name: give them different names in its config.json.")
    return names


def scores(config: Labelled, *, multi_label: bool) -> str:
    """Return the name of the function from logits to scores, as transformers' pipeline chooses it."""
    if multi_label:
        return "sigmoid"
    if config.problem_type == "regression":
        return "none"
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"
