"""Kept heads on arrays: what ``kept_heads`` computes in torch, for processes that do without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from docmill.storage.search.knn import cosines
from docmill.tasks.outputs import Labels, Output, Scale, SpanScores, TokenScores, Vector
from docmill.tasks.windows.windows import Encoded

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Outputs = Callable[[Sequence[Encoded], Arrays], Sequence[Output]]


def _softmax(logits: Array) -> Array:
    powers: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: Array = powers / powers.sum(axis=-1, keepdims=True)
    return found


def _sigmoid(logits: Array) -> Array:
    found: Array = np.exp(-np.logaddexp(np.float32(0), -logits))
    return found


def _relu(states: Array) -> Array:
    found: Array = np.maximum(states, 0)
    return found


# Functions by the names under which they are kept.
_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"none": lambda states: states, "tanh": np.tanh, "relu": _relu}
)
_SCORES: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"none": lambda logits: logits, "sigmoid": _sigmoid, "softmax": _softmax}
)

SCALES: Mapping[str, Scale] = MappingProxyType({"none": Scale.FREE, "sigmoid": Scale.EACH, "softmax": Scale.ONE})


def outputs_of(settings: Mapping[str, Any], tensors: Arrays) -> Outputs:
    """Return the function from a batch and its states to an output for each window, of a kept head."""
    return HEADS[settings["type"]](settings, tensors)


def _logits(settings: Mapping[str, Any], tensors: Arrays, states: Arrays) -> Array:
    found = states["token_embeddings"]
    if settings["of_first"]:
        found = found[:, 0]
    for place, activation in enumerate(settings["activations"]):
        found = _ACTIVATIONS[activation](_product(found, tensors, str(place)))
    return found


def _product(inputs: Array, tensors: Arrays, name: str) -> Array:
    found: Array = inputs @ tensors[f"{name}.weight"].T
    bias = tensors.get(f"{name}.bias")
    return found if bias is None else found + bias


def _labels(settings: Mapping[str, Any], tensors: Arrays) -> Outputs:
    scoring = settings["scoring"]

    def outputs(_: Sequence[Encoded], states: Arrays) -> Sequence[Output]:
        name = scoring["scores"]
        rows = _SCORES[name](_logits(settings, tensors, states))[:, list(scoring["places"])].tolist()
        return [Labels(dict(zip(scoring["names"], row, strict=True)), SCALES[name]) for row in rows]

    return outputs


def _token_labels(settings: Mapping[str, Any], tensors: Arrays) -> Outputs:
    def outputs(batch: Sequence[Encoded], states: Arrays) -> Sequence[Output]:
        scores = _softmax(_logits(settings, tensors, states))
        return token_scores(settings["labels"], batch, scores, states["attention_mask"].astype(bool))

    return outputs


def token_scores(labels: Sequence[str], batch: Sequence[Encoded], scores: Array, mask: Array) -> list[TokenScores]:
    """Return the scores of each window's tokens, without special ones, from scores (windows, tokens, labels)."""
    found = []
    for one, rows, real in zip(batch, scores, mask, strict=True):
        places = one.places
        assert places is not None
        found.append(TokenScores(labels, rows[real][places.leading : places.leading + len(places)]))
    return found


def _span_scores(settings: Mapping[str, Any], tensors: Arrays) -> Outputs:
    def outputs(batch: Sequence[Encoded], states: Arrays) -> Sequence[Output]:
        logits, mask = _logits(settings, tensors, states), states["attention_mask"].astype(bool)
        return span_scores(batch, logits, mask, settings["null_token"])

    return outputs


def span_scores(batch: Sequence[Encoded], logits: Array, mask: Array, null_token: int | None) -> list[SpanScores]:
    """Return the scores of the text's tokens in each window, from logits (windows, tokens, 2) of start and end.

    ``null_token`` is the classification token, whose scores stand for "no answer".
    """
    found = []
    for one, padded, real in zip(batch, logits, mask, strict=True):
        places, rows = one.places, padded[real]
        assert places is not None
        of_text = rows[places.leading : places.leading + len(places)]
        at = next((number for number, token in enumerate(one.ids) if token == null_token), None)
        null = None if at is None else float(rows[at, 0] + rows[at, 1])
        found.append(SpanScores(of_text[:, 0], of_text[:, 1], null))
    return found


def _vectors(settings: Mapping[str, Any], tensors: Arrays) -> Outputs:
    def outputs(_: Sequence[Encoded], states: Arrays) -> Sequence[Output]:
        vectors = pooled(states["token_embeddings"], states["attention_mask"], settings["poolings"])
        for step in settings["steps"]:
            if step["step"] == "normalize":
                vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
            else:
                vectors = _ACTIVATIONS[step["activation"]](_product(vectors, tensors, step["name"]))
        return [Vector(np.ascontiguousarray(row, np.float32)) for row in vectors[..., : settings["dimensions"]]]

    return outputs


def pooled(states: Array, attention_mask: Array, poolings: Sequence[str]) -> Array:
    """Return poolings of (texts, tokens, dim) side by side, as sentence-transformers computes them."""
    rows, mask = np.arange(len(states)), attention_mask[..., None]
    found: list[Array] = []
    for pooling in poolings:
        if pooling == "cls":
            found.append(states[rows, attention_mask.argmax(axis=1)])
        elif pooling == "max":
            found.append(np.where(mask == 0, np.float32(-np.inf), states).max(axis=1))
        elif pooling == "mean":
            n_tokens = np.maximum(mask.sum(axis=1), 1e-9).astype(np.float32)
            found.append((states * mask.astype(np.float32)).sum(axis=1) / n_tokens)
        else:
            assert pooling == "lasttoken", pooling
            last = states.shape[1] - 1 - attention_mask[:, ::-1].argmax(axis=1)
            found.append(states[rows, last])
    return np.concatenate(found, axis=-1)


def _nearness(settings: Mapping[str, Any], tensors: Arrays) -> Outputs:
    vectors_of = _vectors(settings, tensors)
    return lambda batch, states: near(settings["labels"], tensors["labels"], vectors_of(batch, states))


def near(labels: Sequence[str], of_labels: Array, vectors: Sequence[Output]) -> list[Labels]:
    """Return for each vector its cosine with the vector of each label, of shape (labels, dim)."""
    rows = cosines(stacked(vectors), of_labels).tolist()
    return [Labels(dict(zip(labels, row, strict=True))) for row in rows]


def stacked(vectors: Sequence[Output]) -> Array:
    """Return vectors as rows."""
    return np.stack([one.values for one in vectors if isinstance(one, Vector)])


HEADS: Mapping[str, Callable[[Mapping[str, Any], Arrays], Outputs]] = MappingProxyType(
    {
        "vectors": _vectors,
        "labels": _labels,
        "token labels": _token_labels,
        "spans": _span_scores,
        "nearness": _nearness,
    }
)
