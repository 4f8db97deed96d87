"""Classifying: a score for each label of each text, by a model that was trained to give them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field

from storage.core.kinds import READING_SIZE
from storage.core.outcomes import Outcome, Reason, Status
from storage.core.specs import Spec
from storage.outputs.output_types import LABELS
from tasks.heads import Head
from tasks.kinds.base import Again, Computed, TaskKind, Traits, windowed
from tasks.kinds.options import MOST, Windowed
from tasks.models.families import Family
from tasks.outputs import Labels
from tasks.windows.windows import Coder, Window, cut

# Values that stand for an option that was not given, so that both make the same spec.
_DEFAULTS: Mapping[str, Any] = MappingProxyType({"multi_label": False, "aggregate": "mean", "top_k": 0})


def mean_scores(windows: Sequence[Mapping[str, float]], weights: Sequence[int]) -> dict[str, float]:
    """Return the mean of each label's scores, weighted by the windows' tokens; of one window its own."""
    if len(windows) == 1:
        return dict(windows[0])
    total = sum(weights)
    return {
        label: math.fsum(scores[label] * weight for scores, weight in zip(windows, weights, strict=True)) / total
        for label in windows[0]
    }


def max_scores(windows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the highest of each label's scores."""
    return {label: max(scores[label] for scores in windows) for label in windows[0]}


@dataclass(frozen=True)
class Classify:
    """``take_max``: a label's score is the highest of its windows', else their mean. ``top_k`` of 0 keeps all."""

    take_max: bool = False
    top_k: int = 0

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        windows, weights = [], []
        for window, output in zip(computed.windows, computed.outputs, strict=True):
            if window.encoded is None:  # only white space
                continue
            assert isinstance(output, Labels)
            windows.append(output.scores)
            weights.append(window.encoded.tokens)
        if not all(math.isfinite(score) for scores in windows for score in scores.values()):
            return Outcome(
                computed.content_id,
                Status.FAILED,
                reason="The model's scores for this text are not finite.",
                reason_class=Reason.MODEL,
                tokens_in=computed.tokens_in,
            )
        scores = max_scores(windows) if self.take_max else mean_scores(windows, weights)
        best = sorted(scores.items(), key=lambda one: -one[1])
        kept = LABELS.stored(best[: self.top_k or None])
        return computed.done(kept.text, data=dict(kept.data or {}), flags=windowed(computed.windows))


def _recipe(spec: Spec, _traits: Traits) -> Classify:
    return Classify(take_max=spec.params.get("aggregate") == "max", top_k=spec.params.get("top_k", 0))


class ClassifyOptions(Windowed):
    """Options of `classify`."""

    multi_label: Annotated[
        bool | None,
        Field(description="Score each label by itself, so that several may be right.  [default: as the model does]"),
    ] = None
    aggregate: Annotated[
        Literal["mean", "max"] | None,
        Field(
            description="Score of a long document: the mean of its windows', weighted by tokens, or the highest.  "
            "[default: mean]"
        ),
    ] = None
    top_k: Annotated[
        int | None,
        Field(
            ge=0, le=MOST, description="Sample from the K likeliest tokens, or keep the K best labels; 0 means all."
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in super().given().items() if value != _DEFAULTS.get(name)}


CLASSIFY = TaskKind(
    name="classify",
    summary="Score the labels of a classifier for each document.",
    options=ClassifyOptions,
    output=LABELS,
    families=MappingProxyType({Family.ENCODER: Head.CLASSIFICATION, Family.SEQ2SEQ: Head.CLASSIFICATION}),
    recipe=_recipe,
    shard=READING_SIZE,
    sample_texts=64,
)
