"""Classifiers: scores of labels for each window or token, and the start and end scores of answers.

The model's own code computes the head (``tasks.backends.encoder.own_code``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from docmill.tasks import kinds
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder import pooling
from docmill.tasks.backends.encoder.heads import EncoderModel, OutputForm, as_array
from docmill.tasks.backends.encoder.own_code import take_apart
from docmill.tasks.backends.loading import Opening
from docmill.tasks.backends.tokens import PlacedTokens, Tokens, pairs, require_fast
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.answer import require_room
from docmill.tasks.kinds.base import Traits
from docmill.tasks.kinds.classify import CONTRADICTION, ENTAILMENT, hypotheses
from docmill.tasks.models import families
from docmill.tasks.models.families import Description

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_QUESTION = "Which words?"


def load_classifier(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a sequence classifier; for a user's labels, an NLI model or an embedding model.

    Raises ModelCorrupt, ModelUnsuitable and CannotServe.
    """
    spec = assignment.spec
    config = Description.of_folder(assignment.folder).config
    # Older embedding models keep their config.json with their first module.
    if kinds.kind(spec.kind).is_headless(config, spec.params) or ("labels" in spec.params and not config):
        return _by_vectors(assignment, dtype)
    tokens, model, limit = _open(assignment, dtype, Tokens)
    if "labels" in spec.params:
        form = _scores_of_pairs(model.config, spec.model)
        for sentence in hypotheses(spec.params).values():
            tokens.paired(sentence).checked_limit(limit)
        traits = Traits(pairs=pairs(tokens, limit))
    else:
        form = _scores_of_texts(model.config, multi_label=bool(spec.params.get("multi_label")))
        traits = Traits()
    taken = take_apart(model, tokens, limit, form)
    first = taken.encoder is not None and tokens.pads_right and type(model).__name__ in _OF_FIRST
    return replace(taken, traits=traits, reads_first=first)


def _open(assignment: Assignment, dtype: torch.dtype, kind: type[Tokens]) -> tuple[Tokens, PreTrainedModel, int]:
    """Return a model's tokens, the model on its device, and the limit of a window. Raises the errors of loading."""
    opening = Opening.of(assignment)
    if kind is PlacedTokens:
        require_fast(opening.tokenizer, assignment.spec)
    tokens, model = kind(opening.tokenizer), opening.model(dtype).to(assignment.device)
    return tokens, model, tokens.window_limit(assignment.spec, model.config)


# Classifiers whose head reads the state of the first token only.
_OF_FIRST = frozenset(
    f"{name}ForSequenceClassification"
    for name in ("Bert", "DistilBert", "Roberta", "XLMRoberta", "Camembert", "MPNet")
)


def _scores_of_texts(config: PretrainedConfig, *, multi_label: bool) -> OutputForm:
    """Return the form of a classifier's labels, with the scoring function that transformers' pipeline chooses.

    Raises CannotServe if two labels have the same name.
    """
    names = [str(config.id2label[number]) for number in range(config.num_labels)]
    if len({*names}) < len(names):
        raise CannotServe("Two labels of the model have the same name: give them different names in its config.json.")
    if multi_label:
        scores = "sigmoid"
    elif config.problem_type == "regression":
        scores = "none"
    else:
        each = config.problem_type == "multi_label_classification" or config.num_labels == 1
        scores = "sigmoid" if each else "softmax"
    return {"type": "labels", "names": names, "places": [*range(len(names))], "scores": scores}


def _scores_of_pairs(config: PretrainedConfig, model: str) -> OutputForm:
    """Return the form of an NLI model's logits for a pair: entailment and contradiction."""
    places = families.entailment(config.to_dict())
    if places is None:
        raise CannotServe(f"{model} is no NLI model: none of its labels is entailment.")
    n_labels = config.num_labels
    numbers = [place % n_labels for place in places]
    return {"type": "labels", "names": [ENTAILMENT, CONTRADICTION], "places": numbers, "scores": "none"}


def _by_vectors(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load an embedding model. Its scores are the cosines of a window's vector with the labels' vectors."""
    labels: Mapping[str, str] = assignment.spec.params["labels"]
    model = pooling.load(assignment, dtype)
    encoded = model.encode([*labels.values()])
    longest = max(label.tokens for label in encoded)
    if longest > model.limit_tokens:
        raise CannotServe(
            f"The longest label has {longest} tokens, and a window {model.limit_tokens}: shorten its description."
        )
    with torch.inference_mode():
        vectors = torch.cat([model.head(model.own_states([label])).float() for label in encoded])
    form = {"type": "nearness", "labels": [*labels], "vectors": as_array(vectors)}
    return replace(model, form=form, traits=Traits())


def load_tagger(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a token classifier. Raises ModelCorrupt, ModelUnsuitable and CannotServe."""
    tokens, model, limit = _open(assignment, dtype, PlacedTokens)
    labels = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
    return take_apart(model, tokens, limit, {"type": "token scores", "labels": labels})


def load_answerer(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load a model for question answering. It reads a question and a window as a pair.

    Raises ModelCorrupt, ModelUnsuitable and CannotServe.
    """
    tokens, model, limit = _open(assignment, dtype, PlacedTokens)
    # As in transformers, the question comes first if padding comes last.
    first = tokens.pads_right
    beside = pairs(tokens, limit, first=first)
    require_room(assignment.spec.params, beside)
    form = {"type": "span scores", "null_token": tokens.tokenizer.cls_token_id, "question_first": first}
    # Some models read only pairs: Longformer looks for the tokens between the question and the text.
    taken = take_apart(model, tokens.paired(_QUESTION, first=first), limit, form)
    return replace(taken, tokens=tokens, traits=Traits(pairs=beside))
