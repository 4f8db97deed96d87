"""Labelled parts of a text, from the outputs of its windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from tasks.kinds.aggregation import Strategy, entities
from tasks.kinds.base import Computed
from tasks.kinds.options import Windowed
from tasks.outputs import Spans, TokenScores
from tasks.windows.overlapping import deciding
from tasks.windows.places import Places

AGGREGATION: Strategy = "simple"
NOT_FINITE = "The model's scores for this text are not finite."


class Tagging(Windowed):
    """Options of kinds that label parts of a text."""

    aggregation: Annotated[
        Strategy | None,
        Field(
            description="Label of a word whose tokens have several: each its own, the first token's, that of their "
            f"mean, or the best token's.  [default: {AGGREGATION}]"
        ),
    ] = None


def tagged(computed: Computed, aggregation: Strategy) -> list[tuple[str, int, int, float]] | None:
    """Return the labelled parts of a text, each (label, start, end, score); None if a score is not finite."""
    outputs = zip(computed.windows, computed.outputs, strict=True)
    pairs = [(window, one) for window, one in outputs if one is not None]
    scored = [
        (window.encoded.places, one)
        for window, one in pairs
        if isinstance(one, TokenScores) and window.encoded is not None and window.encoded.places is not None
    ]
    if len(scored) == len(pairs):
        return _of_tokens(computed.text, scored, aggregation)
    # A backend that finds spans itself; their places are those in the window.
    return [
        (span.label, window.start + span.start, window.start + span.end, span.score)
        for window, one in pairs
        if isinstance(one, Spans)
        for span in one.spans
    ]


def _of_tokens(
    text: str, scored: Sequence[tuple[Places, TokenScores]], aggregation: Strategy
) -> list[tuple[str, int, int, float]] | None:
    import numpy as np

    if not scored:
        return []
    kept = deciding([(places.first, places.first + len(places)) for places, _ in scored])
    scores = np.concatenate([one.scores[keep] for (_, one), keep in zip(scored, kept, strict=True)])
    if not np.isfinite(scores).all():
        return None
    starts, ends, inside = (
        np.concatenate([np.asarray(part)[keep] for part, keep in zip(parts, kept, strict=True)]).tolist()
        for parts in zip(*((places.starts, places.ends, places.inside) for places, _ in scored), strict=True)
    )
    return entities(text, scored[0][1].labels, scores, starts, ends, inside, aggregation)
