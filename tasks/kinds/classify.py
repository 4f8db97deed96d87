"""Classifying: a score for each label of each text. The labels are the model's own, or those that a user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from storage.core.kinds import READING_SIZE
from storage.core.outcomes import Outcome
from storage.core.specs import Spec
from storage.outputs.output_types import LABELS
from tasks.errors import BadOption
from tasks.kinds import label_prompts
from tasks.kinds.base import Again, BuiltIn, Computed, Plan, Recipe, TaskKind, Traits
from tasks.kinds.entailment import Entailment
from tasks.kinds.label_scores import Combination
from tasks.kinds.labels import GivenLabels
from tasks.kinds.options import MOST, TOP_K, KindOptions, Option, Windowed
from tasks.models.families import Family, classifier, entailment
from tasks.outputs import Head, Labels, Scale
from tasks.windows.windows import Coder, Window, cut

PLACE = "{}"
HYPOTHESIS = "This example is {}."
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"multi_label": False, "aggregate": "mean", "top_k": 0, "hypothesis": HYPOTHESIS}
)


@dataclass(frozen=True)
class Classify:
    """Cuts texts as embed does, and combines the windows' scores."""

    combination: Combination

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        windows, weights, scale = [], [], Scale.ONE
        for window, output in zip(computed.windows, computed.outputs, strict=True):
            if window.encoded is None:  # only white space
                continue
            assert isinstance(output, Labels)
            windows.append(output.scores)
            weights.append(window.encoded.tokens)
            scale = output.scale
        return self.combination.outcome(computed, windows, weights, scale)


def hypotheses(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the sentence about each label in a spec's parameters."""
    hypothesis: str = params.get("hypothesis", HYPOTHESIS)
    return {label: hypothesis.replace(PLACE, words) for label, words in params["labels"].items()}


def _recipe(spec: Spec, traits: Traits) -> Recipe:
    params = spec.params
    combination = Combination(take_max=params.get("aggregate") == "max", top_k=params.get("top_k", 0))
    if "labels" not in params or traits.pairs is None:
        return Classify(combination)
    return Entailment(hypotheses(params), traits.pairs, bool(params.get("multi_label")), combination)


def _with_place(value: str | None) -> str | None:
    if value is not None and value.count(PLACE) != 1:
        raise PydanticCustomError("value", "{sentence}", {"sentence": f"must have {PLACE} once, where a label goes"})
    return value


class ClassifyOptions(Windowed):
    """Options of `classify`."""

    defaults = _DEFAULTS
    labels: GivenLabels = None
    hypothesis: Annotated[
        str | None,
        AfterValidator(_with_place),
        Field(
            description=f"Sentence that an NLI model holds against a document; {{}} stands for a label.  "
            f"[default: {HYPOTHESIS}]",
            examples=["It is about {}."],
        ),
        Option(metavar="TEXT"),
    ] = None
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
        Field(ge=0, le=MOST, description=TOP_K),
    ] = None


def _params(plan: Plan) -> dict[str, Any]:
    """Return no parameters. Raises BadOption where labels do not fit the model, or options lack them."""
    given, config = plan.given, plan.config
    if "labels" not in given:
        if "hypothesis" in given:
            raise BadOption("--hypothesis makes sentences of labels: give --labels, too.")
        return {}
    if classifier(config) == Head.CLASSIFICATION:
        if entailment(config) is None:
            own = ", ".join(str(label) for label in config.get("label2id") or {}) or "no names"
            raise BadOption(
                f"--labels needs an NLI model, one of whose labels is entailment, or an embedding model; the labels "
                f"of {plan.model} are: {own}. Without --labels the model gives these."
            )
    elif config:
        if plan.family is Family.DECODER and len(given["labels"]) == 1:
            raise BadOption(f"{plan.model} chooses between labels: give two or more with --labels.")
        scored = "a decoder-only model, whose scores are the probabilities that it writes each label"
        embedded = "an embedding model, whose scores are the cosines of the document with each label"
        for name in ("hypothesis", "multi_label"):
            if name in given:
                raise BadOption(
                    f"--{name.replace('_', '-')} is for NLI models; {plan.model} is "
                    f"{scored if plan.family is Family.DECODER else embedded}."
                )
    return {}


def _other_models(options: KindOptions) -> tuple[str, ...]:
    """Return two classifiers of the hub; the model that scores labels of one's own fits any text."""
    if "labels" in options.given():
        return ()
    return "distilbert/distilbert-base-uncased-finetuned-sst-2-english", "SamLowe/roberta-base-go_emotions"


CLASSIFY = TaskKind(
    name="classify",
    summary="Score labels for each document: a classifier's own, or those of --labels.",
    options=ClassifyOptions,
    output=LABELS,
    families=MappingProxyType(
        {
            Family.ENCODER: Head.CLASSIFICATION,
            Family.SEQ2SEQ: Head.CLASSIFICATION,
            Family.DECODER: Head.LIKELIHOOD,
        }
    ),
    recipe=_recipe,
    params=_params,
    default_model="classes-ddtp",
    other_models=_other_models,
    built_in=BuiltIn(label_prompts.chat, label_prompts.completed, settings="text-classification"),
    shard=READING_SIZE,
    sample_texts=64,
    headless_with="labels",
    headless_model="minilm",
)
