"""The heads of models, and the outputs of a backend for one window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import fsum, isfinite
from typing import TYPE_CHECKING, Literal, TypeAlias

from docmill.storage.core.specs import Reason

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Head(StrEnum):
    POOLING = "pooling"  # one vector for each window
    CLASSIFICATION = "sequence classification"  # a score for each label of each window
    TAGGING = "token classification"  # a score for each label of each token
    MATCHING = "label matching"  # a score for each part of a window and each named label
    ANSWERING = "question answering"  # a start and an end score for each token
    VOCABULARY = "masked language model"  # a weight for each token of the vocabulary, for each window
    SEQ2SEQ_TEXT = "encoder-decoder text"
    CAUSAL_TEXT = "decoder-only text"
    LIKELIHOOD = "likelihood of labels"  # the probability of each label after a prompt


# Heads with trained weights, which a model's files must have. ``families.classifier`` returns the same names.
TRAINED = frozenset({Head.CLASSIFICATION, Head.TAGGING, Head.ANSWERING})


@dataclass(frozen=True, slots=True)
class Vector:
    """An embedding. ``values`` has shape (dim,), float32.

    ``read_tokens`` is the number of tokens that the model read, if a server counts them.
    """

    values: npt.NDArray[np.float32]
    read_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a sparse encoder, by their ids.

    With ``sums``, a text's weights are the sums over its windows, else the highest weights. ``most`` is the number of
    tokens that a text keeps; 0 means all.
    """

    tokens: Sequence[str]
    sums: bool = False
    most: int = 0


@dataclass(frozen=True, slots=True)
class Weights:
    """The tokens with a weight other than 0, by ascending id. Both arrays have shape (tokens,)."""

    vocabulary: Vocabulary
    ids: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The sum and the least of the log-probabilities (natural logarithms) of an output's tokens.

    The least is None if a library gives only the sum.
    """

    total: float
    least: float | None
    tokens: int

    @classmethod
    def of(cls, log_probabilities: Sequence[float]) -> Likelihood | None:
        """Return the likelihood of an output; None for an output without tokens."""
        if not log_probabilities:
            return None
        return cls(fsum(log_probabilities), min(log_probabilities), len(log_probabilities))


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated text. It is ``truncated`` if the model reached its length limit.

    ``read_tokens`` is the number of tokens that the model read, if a server counts them.
    """

    text: str
    tokens: int
    truncated: bool = False
    likelihood: Likelihood | None = None
    read_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Several:
    """Several generated texts for one window, in their order."""

    outputs: tuple[Generated, ...]

    @property
    def tokens(self) -> int:
        return sum(output.tokens for output in self.outputs)

    @property
    def read_tokens(self) -> int | None:
        """The number of tokens that the model read for all outputs."""
        return self.outputs[0].read_tokens


# The meaning of labels' scores. "one": one label is right, and the scores are its probabilities. "each": a score is
# the probability of its label. "free": the scores make no choice, such as those of a regression.
Scale: TypeAlias = Literal["one", "each", "free"]


@dataclass(frozen=True, slots=True)
class Labels:
    """A score for each label of a window."""

    scores: Mapping[str, float]
    scale: Scale = "one"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a window with a label, at ``[start, end)`` in characters of the window's text."""

    label: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Spans:
    """The spans in a window, in the order of its text."""

    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class TokenScores:
    """A score for each label of each token of a window, without special tokens.

    ``scores`` has shape (tokens, labels), float32, with the columns in the order of ``labels``.
    """

    labels: Sequence[str]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpanScores:
    """The logits of an answer's start and end at each token of a window's text: shape (tokens,), float32.

    ``null`` is the sum of both logits at the classification token; None if the tokenizer has no such token.
    """

    starts: npt.NDArray[np.float32]
    ends: npt.NDArray[np.float32]
    null: float | None

    @property
    def finite(self) -> bool:
        """False for scores with NaN or an infinity in them."""
        import numpy as np

        return bool(np.isfinite(self.starts).all() and np.isfinite(self.ends).all() and isfinite(self.null or 0.0))


@dataclass(frozen=True, slots=True)
class Failure:
    """A window that could not be computed. ``reason`` is a sentence without the document's text."""

    reason: str
    reason_class: Reason


Output = Vector | Weights | Generated | Several | Labels | Spans | TokenScores | SpanScores | Failure


def group_outputs(outputs: Sequence[Generated], n: int) -> Sequence[Output]:
    """Return an output for each group of ``n`` texts in a row."""
    if n == 1:
        return outputs
    return [Several(tuple(outputs[place : place + n])) for place in range(0, len(outputs), n)]
