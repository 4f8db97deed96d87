"""Named entities: the parts of each text that a token classifier gives a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from storage.core.kinds import READING_SIZE
from storage.core.outcomes import Outcome
from storage.core.specs import Spec
from storage.outputs.output_types import SPANS
from tasks.heads import Head
from tasks.kinds.aggregation import Strategy, entities
from tasks.kinds.base import Again, Computed, TaskKind, Traits, windowed
from tasks.kinds.options import Windowed
from tasks.models.families import Family
from tasks.outputs import Spans, TokenScores
from tasks.windows.overlapping import cut_overlapping, deciding
from tasks.windows.places import Places
from tasks.windows.windows import Coder, Window

AGGREGATION: Strategy = "simple"


@dataclass(frozen=True)
class Entities:
    """Cuts texts into windows that overlap, and finds entities in the scores of all their tokens."""

    aggregation: Strategy = AGGREGATION

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut_overlapping(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        outputs = zip(computed.windows, computed.outputs, strict=True)
        pairs = [(window, one) for window, one in outputs if one is not None]
        scored = [
            (window.encoded.places, one)
            for window, one in pairs
            if isinstance(one, TokenScores) and window.encoded is not None and window.encoded.places is not None
        ]
        if len(scored) == len(pairs):
            found = self._found(computed.text, scored)
        else:  # a backend that finds spans itself; their places are those in the window
            found = [
                (span.label, window.start + span.start, window.start + span.end, span.score)
                for window, one in pairs
                if isinstance(one, Spans)
                for span in one.spans
            ]
        if found is None:
            return computed.failed("The model's scores for this text are not finite.")
        stored = SPANS.stored(computed.text, found)
        return computed.done(data=dict(stored.data or {}), flags=windowed(computed.windows))

    def _found(
        self, text: str, scored: Sequence[tuple[Places, TokenScores]]
    ) -> list[tuple[str, int, int, float]] | None:
        """Return the entities of a text; None if a score is not finite."""
        import numpy as np

        kept = deciding([(places.first, places.first + len(places)) for places, _ in scored])
        scores = np.concatenate([one.scores[keep] for (_, one), keep in zip(scored, kept, strict=True)])
        if not np.isfinite(scores).all():
            return None
        starts, ends, inside = (
            np.concatenate([np.asarray(part)[keep] for part, keep in zip(parts, kept, strict=True)]).tolist()
            for parts in zip(*((places.starts, places.ends, places.inside) for places, _ in scored), strict=True)
        )
        return entities(text, scored[0][1].labels, scores, starts, ends, inside, self.aggregation)


def _recipe(spec: Spec, _traits: Traits) -> Entities:
    return Entities(spec.params.get("aggregation", AGGREGATION))


class EntitiesOptions(Windowed):
    """Options of `entities`."""

    aggregation: Annotated[
        Strategy | None,
        Field(
            description="Label of a word whose tokens have several: each its own, the first token's, that of their "
            f"mean, or the best token's.  [default: {AGGREGATION}]"
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        # The default that is written out makes the same spec.
        return {name: value for name, value in super().given().items() if (name, value) != _DEFAULT}


_DEFAULT = ("aggregation", AGGREGATION)

ENTITIES = TaskKind(
    name="entities",
    summary="Find named entities in each document.",
    options=EntitiesOptions,
    output=SPANS,
    families=MappingProxyType({Family.ENCODER: Head.TAGGING}),
    recipe=_recipe,
    shard=READING_SIZE,
    sample_texts=64,
)
