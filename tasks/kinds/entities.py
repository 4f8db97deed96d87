"""Named entities: the parts of each text that a token classifier gives a label, or that fit labels of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from storage.core.kinds import READING_SIZE
from storage.core.outcomes import Outcome
from storage.core.specs import Spec
from storage.outputs.output_types import SPANS
from tasks.errors import BadOption
from tasks.kinds.aggregation import Strategy
from tasks.kinds.base import Again, Computed, Plan, Recipe, TaskKind, Traits, windowed
from tasks.kinds.confidence import Confidence, least
from tasks.kinds.labels import GivenLabels, in_order
from tasks.kinds.matching import Matching
from tasks.kinds.tagging import AGGREGATION, NOT_FINITE, Tagging, tagged
from tasks.models import gliner
from tasks.models.families import Family
from tasks.outputs import Head
from tasks.windows.overlapping import cut_overlapping
from tasks.windows.windows import Coder, Window

THRESHOLD = 0.5


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


def _recipe(spec: Spec, traits: Traits) -> Recipe:
    if "labels" in spec.params and traits.words is not None:
        return Matching(traits.words)
    return Entities(spec.params.get("aggregation", AGGREGATION))


class EntitiesOptions(Tagging):
    """Options of `entities`."""

    defaults = MappingProxyType({"aggregation": AGGREGATION, "threshold": THRESHOLD})
    labels: GivenLabels = None
    threshold: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description=f"Least score of an entity, for a GLiNER model.  [default: {THRESHOLD}]",
            examples=[0.3],
        ),
    ] = None


def _params(plan: Plan) -> dict[str, Any]:
    """Return the labels in their order, which the model reads them in.

    Raises BadOption where options do not fit the model, and ModelUnsuitable for a GLiNER model of another design.
    """
    given = plan.given
    labels: Mapping[str, str] = given.get("labels", {})
    if len(set(labels.values())) < len(labels):
        raise BadOption("--labels describes two labels with the same words: describe each with its own.")
    if plan.family is Family.GLINER:
        gliner.require(plan.config, plan.model)
        if not labels:
            raise BadOption(
                f"{plan.model} is a GLiNER model, which has no labels of its own: name those to find with --labels, "
                "such as --labels person,disease."
            )
        if "adapter" in given:
            raise BadOption(
                f"--adapter is not for GLiNER models such as {plan.model}: name the adapted model itself."
            )
        if "aggregation" in given:
            raise BadOption(
                f"--aggregation joins the tokens of a word; {plan.model} is a GLiNER model, which reads whole words: "
                "leave it out."
            )
    elif plan.config:
        if labels:
            raise BadOption(
                f"--labels needs a GLiNER model, which finds any labels; {plan.model} has labels of its own. Leave "
                "--labels out, or name a GLiNER model with --model."
            )
        if "threshold" in given:
            raise BadOption(
                f"--threshold is for GLiNER models; {plan.model} scores tokens for labels of its own: leave it out."
            )
    return {"labels": in_order(labels)} if labels else {}


ENTITIES = TaskKind(
    name="entities",
    summary="Find named entities in each document.",
    options=EntitiesOptions,
    output=SPANS,
    families=MappingProxyType({Family.ENCODER: Head.TAGGING, Family.GLINER: Head.MATCHING}),
    recipe=_recipe,
    params=_params,
    default_model="entities-ddtp",
    other_models=lambda _options: ("dslim/bert-base-NER", "Davlan/xlm-roberta-base-ner-hrl"),
    shard=READING_SIZE,
    sample_texts=64,
    marks=MappingProxyType({Head.MATCHING: "labels"}),
)
