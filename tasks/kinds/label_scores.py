"""The scores of labels: those of a text's windows become those of the text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.core.outcomes import Outcome
from storage.outputs.output_types import LABELS
from tasks.kinds.base import Computed, windowed
from tasks.kinds.confidence import Confidence, margin
from tasks.outputs import Scale

Scores = Mapping[str, float]


def mean_scores(windows: Sequence[Scores], weights: Sequence[int]) -> dict[str, float]:
    """Return the mean of each label's scores, weighted by the windows' tokens; of one window its own."""
    if len(windows) == 1:
        return dict(windows[0])
    total = sum(weights)
    return {
        label: math.fsum(scores[label] * weight for scores, weight in zip(windows, weights, strict=True)) / total
        for label in windows[0]
    }


def max_scores(windows: Sequence[Scores]) -> dict[str, float]:
    """Return the highest of each label's scores."""
    return {label: max(scores[label] for scores in windows) for label in windows[0]}


@dataclass(frozen=True)
class Combination:
    """``take_max``: a label's score is the highest of its windows', else their mean. ``top_k`` of 0 keeps all."""

    take_max: bool = False
    top_k: int = 0

    def outcome(self, computed: Computed, windows: Sequence[Scores], weights: Sequence[int], scale: Scale) -> Outcome:
        """Return the outcome of a text from the scores of its windows, and how many tokens each has."""
        if not all(math.isfinite(score) for scores in windows for score in scores.values()):
            return computed.failed("The model's scores for this text are not finite.")
        scores = max_scores(windows) if self.take_max else mean_scores(windows, weights)
        best = sorted(scores.items(), key=lambda one: -one[1])
        kept = LABELS.stored(best[: self.top_k or None])
        sure = Confidence(margin([*scores.values()], scale))
        return computed.done(kept.text, data=dict(kept.data or {}), flags=windowed(computed.windows), confidence=sure)
