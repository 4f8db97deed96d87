"""The confidence of an outcome: a number from 0 to 1 for how sure the model was. It is not the chance to be right.

Each head has one measure. A text that a model wrote has the mean probability of its tokens, the geometric one:
``exp`` of the mean of their log-probabilities. These are the model's own: those of the softmax over its logits,
before a temperature, a penalty, a grammar or another processor changes them. The token that ends an output counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from tasks.outputs import Generated, Head, Likelihood, Output, Scale, Several


class Measure(StrEnum):
    """The name of a measure."""

    MEAN_TOKEN_PROBABILITY = "mean_token_probability"  # noqa: S105 - no password
    MARGIN = "margin"  # between the scores of the best label and of the second
    LEAST_SPAN_SCORE = "least_span_score"
    LEAST_ANSWER_PROBABILITY = "least_answer_probability"  # of all questions; of "no answer" where that was said


# Vectors and weights have none.
MEASURES: Mapping[Head, Measure] = MappingProxyType(
    {
        Head.SEQ2SEQ_TEXT: Measure.MEAN_TOKEN_PROBABILITY,
        Head.CAUSAL_TEXT: Measure.MEAN_TOKEN_PROBABILITY,
        Head.CLASSIFICATION: Measure.MARGIN,
        Head.LIKELIHOOD: Measure.MARGIN,
        Head.TAGGING: Measure.LEAST_SPAN_SCORE,
        Head.MATCHING: Measure.LEAST_SPAN_SCORE,
        Head.ANSWERING: Measure.LEAST_ANSWER_PROBABILITY,
    }
)


@dataclass(frozen=True, slots=True)
class Confidence:
    """The numbers of an outcome about its confidence, as `storage.core.outcomes.Outcome` has them."""

    confidence: float | None = None
    mean_logprob: float | None = None
    least_logprob: float | None = None


UNKNOWN = Confidence()


def written(outputs: Sequence[Output | None]) -> Confidence:
    """Return the confidence of the text that the outputs of windows make, by all their tokens alike.

    Of several outputs for a window it is that of the first. It is not known if that of any window is not.
    """
    first = [output.outputs[0] if isinstance(output, Several) else output for output in outputs]
    found = [output.likelihood for output in first if isinstance(output, Generated)]
    known = [one for one in found if one is not None]
    tokens = sum(one.tokens for one in known)
    if not tokens or len(known) < len(found):
        return UNKNOWN
    mean = min(0.0, math.fsum(one.total for one in known) / tokens)
    return Confidence(math.exp(mean), mean, _least(known))


def _least(known: Sequence[Likelihood]) -> float | None:
    each = [one.least for one in known if one.least is not None]
    return min(0.0, *each) if len(each) == len(known) else None


def least(scores: Iterable[float | None]) -> float | None:
    """Return the least of the scores that are known, as a confidence; None if there is none."""
    known = [score for score in scores if score is not None]
    return _bounded(min(known)) if known else None


def margin(scores: Sequence[float], scale: Scale) -> float | None:
    """Return the margin of labels' scores: from the best label to the second, or of the label that is decided least.

    Labels that are scored each by itself have a margin between yes and no. None if the scores measure something else.
    """
    if scale is Scale.FREE or not scores:
        return None
    if scale is Scale.EACH or len(scores) == 1:
        return _bounded(min(abs(2 * score - 1) for score in scores))
    best, second, *_ = sorted(scores, reverse=True)
    return _bounded(best - second)


def _bounded(value: float) -> float | None:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else None
