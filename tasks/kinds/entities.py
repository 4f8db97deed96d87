"""Named entities: the parts of each text that a token classifier gives a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from storage.core.kinds import READING_SIZE
from storage.core.outcomes import Outcome
from storage.core.specs import Spec
from storage.outputs.output_types import SPANS
from tasks.heads import Head
from tasks.kinds.aggregation import Strategy
from tasks.kinds.base import Again, Computed, TaskKind, Traits, windowed
from tasks.kinds.confidence import Confidence, least
from tasks.kinds.tagging import AGGREGATION, NOT_FINITE, Tagging, tagged
from tasks.models.families import Family
from tasks.windows.overlapping import cut_overlapping
from tasks.windows.windows import Coder, Window


@dataclass(frozen=True)
class Entities:
    """Cuts texts into windows that overlap, and finds entities in the scores of all their tokens."""

    aggregation: Strategy = AGGREGATION

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut_overlapping(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        found = tagged(computed, self.aggregation)
        if found is None:
            return computed.failed(NOT_FINITE)
        stored = SPANS.stored(computed.text, found)
        sure = Confidence(least(score for *_, score in found))
        return computed.done(data=dict(stored.data or {}), flags=windowed(computed.windows), confidence=sure)


def _recipe(spec: Spec, _traits: Traits) -> Entities:
    return Entities(spec.params.get("aggregation", AGGREGATION))


class EntitiesOptions(Tagging):
    """Options of `entities`."""

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
    default_model="entities-ddtp",
    other_models=lambda _options: ("dslim/bert-base-NER", "Davlan/xlm-roberta-base-ner-hrl"),
    shard=READING_SIZE,
    sample_texts=64,
)
