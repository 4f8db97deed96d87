"""Heads as numbers and weights: computed in torch alone, without the library that read the model's files.

The library's own head is the standard: a head is kept only if it gives exactly the same
(``tasks.backends.encoder.reopening``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from docmill.tasks.backends.encoder import array_heads, kept_weights
from docmill.tasks.backends.encoder.array_heads import SCALES, near
from docmill.tasks.outputs import Labels, Output, SpanScores, TokenScores, Vector
from docmill.tasks.windows.windows import Encoded

Outputs = Callable[[Sequence[Encoded], dict[str, Tensor]], Sequence[Output]]
# Functions by the names under which they are kept.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"none": lambda states: states, "tanh": torch.tanh, "relu": functional.relu}
)
SCORES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"none": lambda logits: logits, "sigmoid": torch.sigmoid, "softmax": lambda logits: logits.softmax(-1)}
)
# The products of a classifier's head, from the first token's state, with the activation after each.
_OF_FIRST: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType(
    {
        "BertForSequenceClassification": (("bert.pooler.dense", "tanh"), ("classifier", "none")),
        "DistilBertForSequenceClassification": (("pre_classifier", "relu"), ("classifier", "none")),
        **{
            f"{name}ForSequenceClassification": (("classifier.dense", "tanh"), ("classifier.out_proj", "none"))
            for name in ("Roberta", "XLMRoberta", "Camembert", "MPNet")
        },
    }
)
# The same from the state of every token.
_OF_EACH: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType(
    {
        f"{name}{head}": ((module, "none"),)
        for name in ("Bert", "DistilBert", "Roberta", "XLMRoberta", "Camembert", "MPNet")
        for head, module in (("ForTokenClassification", "classifier"), ("ForQuestionAnswering", "qa_outputs"))
    }
)


@dataclass(frozen=True)
class Scoring:
    """From the logits of a window to labels: their names, their places among the logits, a function of ``SCORES``."""

    names: Sequence[str]
    places: Sequence[int]
    scores: str

    def labels(self, logits: Tensor) -> list[Labels]:
        """Return the scores for logits (windows, labels)."""
        rows, scale = SCORES[self.scores](logits.float()).cpu().tolist(), SCALES[self.scores]
        of_places = [[row[place] for place in self.places] for row in rows]
        return [Labels(dict(zip(self.names, row, strict=True)), scale) for row in of_places]


@dataclass(frozen=True)
class KeptHead:
    """A head. ``settings`` are JSON; ``settings["type"]`` is one of ``HEADS``.

    ``in_files`` has the names that the model's files may have for large tensors, which are not kept twice.
    """

    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    in_files: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def pools_first(self) -> bool:
        """True for a head of vectors that reads the first token's state and no other."""
        return self.settings.get("poolings") == ["cls"]

    def outputs(self) -> Outputs:
        """Return the function from a batch and its states to an output for each window."""
        return HEADS[self.settings["type"]](self.settings, self.tensors)


def linears(model: nn.Module) -> tuple[list[str], dict[str, Tensor], bool] | None:
    """Return the products of a classifier's head: activations, tensors, and if the head reads the first token alone.

    None for a model of another design.
    """
    name = type(model).__name__
    products = _OF_FIRST.get(name) or _OF_EACH.get(name)
    if products is None:
        return None
    weights = dict(model.named_parameters())
    tensors = {
        f"{place}.{part}": weights[f"{module}.{part}"].detach()
        for place, (module, _) in enumerate(products)
        for part in ("weight", "bias")
    }
    return [activation for _, activation in products], tensors, name in _OF_FIRST


def _logits(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Callable[[dict[str, Tensor]], Tensor]:
    def logits_of(states: dict[str, Tensor]) -> Tensor:
        found = states["token_embeddings"]
        if settings["of_first"]:
            found = found[:, 0]
        for place, activation in enumerate(settings["activations"]):
            product = functional.linear(found, tensors[f"{place}.weight"], tensors[f"{place}.bias"])
            found = ACTIVATIONS[activation](product)
        return found

    return logits_of


def _labels(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Outputs:
    logits_of, scoring = _logits(settings, tensors), Scoring(**settings["scoring"])
    return lambda _, states: scoring.labels(logits_of(states))


def _token_labels(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Outputs:
    logits_of, labels = _logits(settings, tensors), settings["labels"]

    def outputs(batch: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        return token_scores(labels, batch, states, logits_of(states))

    return outputs


def token_scores(
    labels: Sequence[str], batch: Sequence[Encoded], states: Mapping[str, Tensor], logits: Tensor
) -> list[TokenScores]:
    """Return the scores of each window's tokens, without special ones, from logits (windows, tokens, labels)."""
    scores, mask = logits.float().softmax(-1).cpu().numpy(), states["attention_mask"].bool().cpu().numpy()
    return array_heads.token_scores(labels, batch, scores, mask)


def _span_scores(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Outputs:
    logits_of, null_token = _logits(settings, tensors), settings["null_token"]
    return lambda batch, states: span_scores(batch, states, logits_of(states), null_token)


def span_scores(
    batch: Sequence[Encoded], states: Mapping[str, Tensor], logits: Tensor, null_token: int | None
) -> list[SpanScores]:
    """Return the scores of the text's tokens in each window, from logits (windows, tokens, 2) of start and end.

    ``null_token`` is the classification token, whose scores stand for "no answer".
    """
    mask = states["attention_mask"].bool().cpu().numpy()
    return array_heads.span_scores(batch, logits.float().cpu().numpy(), mask, null_token)


def _vectors(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Outputs:
    steps = [_step(step, tensors) for step in settings["steps"]]
    dimensions = settings["dimensions"]

    def outputs(_: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        vectors = pooled(states["token_embeddings"], states["attention_mask"], settings["poolings"])
        for step in steps:
            vectors = step(vectors)
        if dimensions is not None:
            vectors = vectors[..., :dimensions]
        return [Vector(np.ascontiguousarray(row)) for row in vectors.float().cpu().numpy()]

    return outputs


def _nearness(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Outputs:
    vectors_of, of_labels = _vectors(settings, tensors), tensors["labels"].numpy()

    def outputs(batch: Sequence[Encoded], states: dict[str, Tensor]) -> Sequence[Output]:
        return near(settings["labels"], of_labels, vectors_of(batch, states))

    return outputs


def pooled(states: Tensor, attention_mask: Tensor, poolings: Sequence[str]) -> Tensor:
    """Return poolings of (texts, tokens, dim) side by side, as sentence-transformers computes them."""
    found = []
    for pooling in poolings:
        if pooling == "cls":
            first = attention_mask.to(torch.int).argmax(dim=1)
            found.append(torch.gather(states, 1, _everywhere(first, states)).squeeze(1))
        elif pooling == "max":
            hidden = attention_mask.unsqueeze(-1).expand_as(states) == 0
            found.append(states.masked_fill(hidden, float("-inf")).max(dim=1).values)
        elif pooling == "mean":
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            found.append((states * mask).sum(dim=1) / torch.clamp(mask.sum(dim=1), min=1e-9))
        else:
            assert pooling == "lasttoken", pooling
            length = states.shape[1]
            values, behind = attention_mask.flip(1).max(1)
            last = length - torch.where(values == 0, length - 1, behind) - 1
            found.append(torch.gather(states, 1, _everywhere(last, states)).squeeze(1))
    return torch.cat(found, dim=-1)


def _everywhere(places: Tensor, states: Tensor) -> Tensor:
    """Return a place for each text as an index of all its dimensions."""
    return places.unsqueeze(-1).unsqueeze(1).expand(-1, 1, states.shape[-1])


def _step(step: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    if step["step"] == "normalize":
        return lambda vectors: functional.normalize(vectors, p=2, dim=-1)
    assert step["step"] == "linear", step
    name, activation = step["name"], ACTIVATIONS[step["activation"]]
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    return lambda vectors: activation(functional.linear(vectors, weight, bias))


HEADS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], Outputs]] = MappingProxyType(
    {
        "vectors": _vectors,
        "labels": _labels,
        "token labels": _token_labels,
        "spans": _span_scores,
        "nearness": _nearness,
        "weights": kept_weights.outputs_of,
    }
)
