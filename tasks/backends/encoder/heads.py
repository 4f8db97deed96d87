"""The interface between an encoder and its head, and the outputs that a head's numbers become.

An encoder-only model has an encoder, which gives a state for each token, and a head, which gives numbers for the
states: a vector, or scores for each window or token. The encoder takes nearly all of the time. So code that makes it
fast (batches without padding, another library) is separate from the heads and serves all of them. The functions in
``FORMS`` make outputs of the numbers, for any library. To add a head, write a function that loads it and a line in
``LOADERS``, and a function in ``FORMS`` for a new form of output.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from docmill.storage.search.knn import cosines
from docmill.tasks.outputs import Head, Labels, Output, Scale, SpanScores, TokenScores, Vector, Vocabulary, Weights
from docmill.tasks.windows.windows import Coder, Encoded

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from docmill.tasks.backends import Assignment
    from docmill.tasks.backends.tokens import Tokens
    from docmill.tasks.kinds.base import Traits

Array = npt.NDArray[Any]
# A form names a function of ``FORMS`` and has its settings, as JSON and arrays.
OutputForm = Mapping[str, Any]

# The names of the functions that load the model of a head: ``load(assignment, dtype)``.
LOADERS: Mapping[Head, str] = MappingProxyType(
    {
        Head.POOLING: "docmill.tasks.backends.encoder.pooling:load",
        Head.CLASSIFICATION: "docmill.tasks.backends.encoder.classifiers:load_classifier",
        Head.TAGGING: "docmill.tasks.backends.encoder.classifiers:load_tagger",
        Head.ANSWERING: "docmill.tasks.backends.encoder.classifiers:load_answerer",
        Head.VOCABULARY: "docmill.tasks.backends.encoder.library_models:load_sparse",
    }
)

# Returns a batch's ``token_embeddings`` in float32, of shape (windows, longest, dim), its ``attention_mask`` of shape
# (windows, longest), and other values that a model's own code gives. Called from several threads.
StatesOf = Callable[[Sequence[Encoded]], "dict[str, torch.Tensor]"]


@dataclass(frozen=True)
class EncoderModel:
    """A loaded model in parts: its tokenizer, its encoder and its head.

    ``tokens`` is None for a model that tokenizes by itself. Its windows hold their text, and its ``counters`` count
    the tokens that it reads.

    ``encoder`` is transformers' encoder if the head reads only its last hidden states. Only then may a fast encoder
    replace it, and free its weights; it shares none with the head. ``own_states`` computes states by the model's own
    code.

    ``head`` computes the numbers of a batch from its states, in float32. ``form`` says which outputs they become.
    ``library`` is the package that runs the model's own code.

    ``reads_first``: the head reads only the state of a window's first token. A fast encoder may give only that state,
    as a window of one token.
    """

    tokens: Tokens | None
    limit_tokens: int
    encoder: PreTrainedModel | None
    own_states: StatesOf
    head: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
    form: OutputForm
    traits: Traits
    library: str
    reads_first: bool = False
    counters: Sequence[Tokens] = ()

    @property
    def coder(self) -> Coder:
        """The model's coder; if the model reads pairs, the coder for an example sentence."""
        return self if self.traits.pairs is None else self.traits.pairs("Is this a sentence?")

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Return what the model will read for each text."""
        if self.tokens is not None:
            return self.tokens.encode(texts)
        if self.counters:
            counted = zip(*(counter.encode(texts) for counter in self.counters), strict=True)
            return [Encoded(max(row.tokens for row in rows), text) for text, rows in zip(texts, counted, strict=True)]
        # Such a model has no limit. Words are near enough to tokens for batches.
        return [Encoded(max(1, len(text.split())), text) for text in texts]

    def outputs(self, batch: Sequence[Encoded], states: Mapping[str, torch.Tensor]) -> Sequence[Output]:
        """Return the output of each window, in order, from a batch and its states."""
        return outputs_of(self.form, batch, states, lambda values: as_array(self.head(values).float()))


def load(assignment: Assignment, dtype: torch.dtype) -> EncoderModel:
    """Load the model of an assignment's head, its encoder in ``dtype``. Raises ModelCorrupt and CannotServe."""
    loader: Callable[[Assignment, torch.dtype], EncoderModel] = pkgutil.resolve_name(LOADERS[assignment.head])
    return loader(assignment, dtype)


def as_array(values: torch.Tensor | Array) -> Array:
    """Return a tensor of any device as an array."""
    return values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()


def outputs_of(
    form: OutputForm,
    batch: Sequence[Encoded],
    states: Mapping[str, Any],
    numbers_of: Callable[[Mapping[str, Any]], Array],
) -> list[Output]:
    """Return the output of each window in this form. ``numbers_of`` computes the numbers from a batch's states."""
    make, alone = FORMS[form["type"]]
    mask = as_array(states["attention_mask"]).astype(bool) if "attention_mask" in states else None
    return make(form, _compute_each_alone(states, numbers_of) if alone else numbers_of(states), batch, mask)


def _compute_each_alone(
    states: Mapping[str, Any], numbers_of: Callable[[Mapping[str, Any]], Array]
) -> Iterator[Array]:
    """Yield the numbers of each window, computed apart and without padding: a batch's would take gigabytes."""
    for row, real in enumerate(states["attention_mask"] == 1):
        yield numbers_of({name: values[row : row + 1, real] for name, values in states.items()})[0]


def softmax(logits: Array) -> Array:
    """Return probabilities, which sum to 1 over the last axis."""
    powers: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(logits: Array) -> Array:
    """Return the probability of each logit."""
    probabilities: Array = np.exp(-np.logaddexp(np.float32(0), -logits))
    return probabilities


# The functions from logits to scores, with the scale of the scores.
SCORES: Mapping[str, tuple[Callable[[Array], Array], Scale]] = MappingProxyType(
    {"none": (lambda logits: logits, "free"), "sigmoid": (sigmoid, "each"), "softmax": (softmax, "one")}
)


def _vectors(_form: OutputForm, numbers: Iterable[Array], *_: object) -> list[Output]:
    return [Vector(np.ascontiguousarray(row, np.float32)) for row in numbers]


def _nearness(form: OutputForm, numbers: Iterable[Array], *_: object) -> list[Output]:
    """Return the cosines of each vector with the labels' vectors, of shape (labels, dim)."""
    rows = cosines(np.stack([*numbers]), form["vectors"]).tolist()
    return [Labels(dict(zip(form["labels"], row, strict=True))) for row in rows]


def _labels(form: OutputForm, numbers: Array, *_: object) -> list[Output]:
    function, scale = SCORES[form["scores"]]
    rows = function(numbers)[:, list(form["places"])].tolist()
    return [Labels(dict(zip(form["names"], row, strict=True)), scale) for row in rows]


def _token_scores(form: OutputForm, numbers: Array, batch: Sequence[Encoded], mask: Array) -> list[Output]:
    """Return the scores of each window's tokens, without special tokens, from logits (windows, tokens, labels)."""
    outputs: list[Output] = []
    for encoded, rows, real in zip(batch, softmax(numbers), mask, strict=True):
        places = encoded.places
        assert places is not None
        outputs.append(TokenScores(form["labels"], rows[real][places.leading : places.leading + len(places)]))
    return outputs


def _span_scores(form: OutputForm, numbers: Array, batch: Sequence[Encoded], mask: Array) -> list[Output]:
    """Return the scores of the text's tokens in each window, from logits (windows, tokens, 2) of start and end.

    ``null_token`` is the classification token, whose scores stand for "no answer".
    """
    outputs: list[Output] = []
    for encoded, padded, real in zip(batch, numbers, mask, strict=True):
        places, rows = encoded.places, padded[real]
        assert places is not None
        of_text = rows[places.leading : places.leading + len(places)]
        at = next((number for number, token in enumerate(encoded.ids) if token == form["null_token"]), None)
        null = None if at is None else float(rows[at, 0] + rows[at, 1])
        outputs.append(SpanScores(of_text[:, 0], of_text[:, 1], null))
    return outputs


def _weights(form: OutputForm, numbers: Iterable[Array], *_: object) -> list[Output]:
    vocabulary = Vocabulary(form["vocabulary"], sums=form["sums"], most=form["most"])
    outputs: list[Output] = []
    for row in numbers:
        [ids] = row.nonzero()
        outputs.append(Weights(vocabulary, ids, row[ids]))
    return outputs


# The functions from numbers to outputs, with True if the numbers of each window are computed apart.
FORMS: Mapping[str, tuple[Callable[..., list[Output]], bool]] = MappingProxyType(
    {
        "vectors": (_vectors, False),
        "nearness": (_nearness, False),
        "labels": (_labels, False),
        "token scores": (_token_scores, False),
        "span scores": (_span_scores, False),
        "weights": (_weights, True),
    }
)


@dataclass(frozen=True)
class ReferenceStates:
    """Texts and their states of shape (tokens, dim) by the model's own code.

    A fast encoder's states may have a distance of ``tolerance`` from them: the largest distance of a token's state,
    relative to its length. With ``means``, the distance is 1 - the cosine of a text's mean states.
    """

    texts: Sequence[Encoded]
    states: Sequence[Array]
    tolerance: float
    means: bool = False

    def distance(self, encoder: Callable[[Sequence[Encoded]], Mapping[str, Any]]) -> float:
        """Return the distance of the encoder's states from the model's own; infinity if a state is not finite."""
        states = encoder(self.texts)
        padded, masks = as_array(states["token_embeddings"]), as_array(states["attention_mask"]).astype(bool)
        if not np.isfinite(padded).all():  # padding counts, since a mean multiplies it by zero
            return math.inf
        measure = _mean_distance if self.means else _state_distance
        return max(measure(row[mask], own) for row, mask, own in zip(padded, masks, self.states, strict=True))


def _state_distance(states: Array, own: Array) -> float:
    return float((np.linalg.norm(states - own, axis=-1) / np.linalg.norm(own, axis=-1)).max())


def _mean_distance(states: Array, own: Array) -> float:
    mean, own_mean = states.sum(axis=0), own.sum(axis=0)
    return float(1 - mean @ own_mean / (np.linalg.norm(mean) * np.linalg.norm(own_mean)))
