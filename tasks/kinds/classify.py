"""Classifying: a score for each label and each text. The labels are the model's own or the user's.

A model of natural language inference judges if a text entails a sentence about each label: it reads a window of the
text and a sentence as a pair. The scores are those of transformers' zero-shot-classification.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from docmill.storage.core.specs import READING_SIZE, Outcome, Spec
from docmill.storage.outputs.output_types import LABELS
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.base import (
    NOT_FINITE,
    Again,
    BuiltIn,
    Computed,
    Plan,
    Recipe,
    TaskKind,
    Traits,
    margin,
    pattern,
    windowed,
)
from docmill.tasks.kinds.options import MOST, GivenLabels, KindOptions, Option, wrong_value
from docmill.tasks.models.families import Family, classifier, entailment
from docmill.tasks.outputs import Head, Labels, Scale
from docmill.tasks.prompts import PromptFrame
from docmill.tasks.windows.windows import Coder, Window, cut, tokens_of

PLACE = "{}"
HYPOTHESIS = "This example is {}."
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"multi_label": False, "aggregate": "mean", "top_k": 0, "hypothesis": HYPOTHESIS}
)
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Classify(Recipe):
    """Combines the scores of windows.

    The score of a label is the mean of its windows' scores, or, with ``take_max``, the highest. The best ``top_k``
    labels are kept, all if it is 0.
    """

    take_max: bool = False
    top_k: int = 0

    def join(self, computed: Computed) -> Outcome | Again:
        outputs = [output for output in computed.outputs if isinstance(output, Labels)]
        scores = [output.scores for output in outputs]
        return self.combine(computed, scores, tokens_of(computed.windows), outputs[0].scale)

    def combine(self, computed: Computed, windows: Sequence[Scores], weights: Sequence[int], scale: Scale) -> Outcome:
        """Return the outcome of a text from the scores of its windows, weighted by their tokens."""
        if not all(math.isfinite(score) for scores in windows for score in scores.values()):
            return computed.failed(NOT_FINITE)
        if self.take_max:
            scores = {label: max(window[label] for window in windows) for label in windows[0]}
        else:
            scores = mean_scores(windows, weights)
        best = sorted(scores.items(), key=lambda pair: -pair[1])
        stored = LABELS.stored(best[: self.top_k or None])
        return computed.done(stored, flags=windowed(computed.windows), confidence=margin([*scores.values()], scale))


@dataclass(frozen=True)
class Entailment:
    """Scores labels by the entailment of sentences. ``pairs`` returns the coder of texts beside a sentence.

    With ``multi_label`` each label is scored by itself, by entailment against contradiction. Otherwise labels are
    scored against each other, by entailment. A single label is always scored by itself.
    """

    sentences: Mapping[str, str]
    pairs: Callable[[str], Coder]
    multi_label: bool
    classify: Classify

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        """Return windows that fit with the longest sentence, each of them once for every label in a row."""
        coders = [self.pairs(sentence) for sentence in self.sentences.values()]
        windows = cut(texts, max(coders, key=lambda coder: coder.encode([""])[0].tokens))
        pieces = [
            text[window.start : window.end]
            for text, of_text in zip(texts, windows, strict=True)
            for window in of_text
            if window.encoded is not None
        ]
        pairs = iter(zip(*(coder.encode(pieces) for coder in coders), strict=True))
        return [
            [
                replace(window, encoded=encoded)
                for window in of_text
                for encoded in ((None,) if window.encoded is None else next(pairs))
            ]
            for of_text in windows
        ]

    def join(self, computed: Computed) -> Outcome | Again:
        logits = [output.scores for output in computed.outputs if isinstance(output, Labels)]
        tokens = tokens_of(computed.windows)
        each = len(self.sentences)
        starts = range(0, len(logits), each)
        windows = [self._scores(logits[start : start + each]) for start in starts]
        weights = [sum(tokens[start : start + each]) for start in starts]
        return self.classify.combine(computed, windows, weights, "each" if self.multi_label else "one")

    def _scores(self, logits: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return a window's score for each label, from the logits of its pairs."""
        if self.multi_label or len(logits) == 1:
            shares = [softmax([pair[CONTRADICTION], pair[ENTAILMENT]])[1] for pair in logits]
        else:
            shares = softmax([pair[ENTAILMENT] for pair in logits])
        return dict(zip(self.sentences, shares, strict=True))


def _recipe(spec: Spec, traits: Traits) -> Recipe:
    params = spec.params
    classify = Classify(take_max=params.get("aggregate") == "max", top_k=params.get("top_k", 0))
    if "labels" not in params or traits.pairs is None:
        return classify
    return Entailment(hypotheses(params), traits.pairs, bool(params.get("multi_label")), classify)


def _require_place(value: str | None) -> str | None:
    if value is not None and value.count(PLACE) != 1:
        raise wrong_value(f"must have {PLACE} once, where a label goes")
    return value


class ClassifyOptions(KindOptions):
    """Options of `classify`."""

    defaults = _DEFAULTS
    labels: GivenLabels = None
    hypothesis: Annotated[
        str | None,
        AfterValidator(_require_place),
        Field(
            description=f"Sentence that an NLI model judges; {{}} stands for a label.  [default: {HYPOTHESIS}]",
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
            description="Score of a long document: the mean of its windows, weighted by tokens, or the highest.  "
            "[default: mean]"
        ),
        Option("window-score"),
    ] = None
    top_k: Annotated[
        int | None,
        Field(ge=0, le=MOST, description="Keep the N best labels; 0 means all."),
    ] = None


def _params(plan: Plan) -> dict[str, Any]:
    """Return no parameters. Raises BadOption if labels do not fit the model, or options need labels."""
    options, config = plan.options, plan.config
    if "labels" not in options:
        if "hypothesis" in options:
            raise BadOption("--hypothesis makes sentences of labels: give --labels, too.")
        return {}
    if classifier(config) == Head.CLASSIFICATION:
        if entailment(config) is None:
            own = ", ".join(map(str, config.get("label2id") or (config.get("id2label") or {}).values()))
            raise BadOption(
                "--labels needs an NLI model, one of whose labels is entailment, or an embedding model. This one has "
                f"labels of its own{own and ': '}{own}. Without --labels it gives these."
            )
    elif config:
        if plan.family is Family.DECODER and len(options["labels"]) == 1:
            raise BadOption(f"{plan.model} chooses between labels: give two or more with --labels.")
        scored = "a decoder-only model, whose scores are the probabilities that it writes each label"
        embedded = "an embedding model, whose scores are the cosines of the document with each label"
        for name in ("hypothesis", "multi_label"):
            if name in options:
                raise BadOption(
                    f"--{name.replace('_', '-')} is for NLI models; {plan.model} is "
                    f"{scored if plan.family is Family.DECODER else embedded}."
                )
    return {}


def _other_models(options: KindOptions) -> tuple[str, ...]:
    """Return two classifiers on the hub; none with --labels, since the default model then fits any text."""
    if "labels" in options.to_params():
        return ()
    return "distilbert/distilbert-base-uncased-finetuned-sst-2-english", "SamLowe/roberta-base-go_emotions"


def _chat(spec: Spec) -> PromptFrame:
    """Return the request for a label of a text, for a model that follows instructions."""
    request = "Choose the label that fits the text below best. Answer with the label only.\n\nLabels:"
    return PromptFrame(f"{request}\n{_list_labels(spec)}\n\nText:\n", "")


def _pattern(spec: Spec, _shown: bool) -> PromptFrame:
    """Return the request as a pattern that a base model completes with a label."""
    before = pattern("Text", "Label", ())
    return PromptFrame(f"Labels:\n{_list_labels(spec)}\n\n{before.before}", before.after)


def _list_labels(spec: Spec) -> str:
    """Return the labels as sorted lines, since PostgreSQL does not keep their order."""
    labels = sorted(spec.params["labels"].items())
    return "\n".join(f"- {label}" if words == label else f"- {label}: {words}" for label, words in labels)


def hypotheses(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the sentence about each label in a spec's parameters."""
    hypothesis: str = params.get("hypothesis", HYPOTHESIS)
    return {label: hypothesis.replace(PLACE, words) for label, words in sorted(params["labels"].items())}


def mean_scores(windows: Sequence[Scores], weights: Sequence[int]) -> dict[str, float]:
    """Return the mean of each label's scores, weighted by the windows' tokens."""
    if len(windows) == 1:
        return dict(windows[0])
    total = sum(weights)
    return {
        label: math.fsum(scores[label] * weight for scores, weight in zip(windows, weights, strict=True)) / total
        for label in windows[0]
    }


def softmax(logits: Sequence[float]) -> list[float]:
    """Return the probabilities of these logits; NaN for each if one of them is not finite."""
    if not all(math.isfinite(logit) for logit in logits):
        return [math.nan] * len(logits)
    most = max(logits)
    powers = [math.exp(logit - most) for logit in logits]
    total = math.fsum(powers)
    return [power / total for power in powers]


CLASSIFY = TaskKind(
    name="classify",
    summary="Score labels for each document: a classifier's own, or those of --labels.",
    example="letters.jsonl --labels praise,complaint",
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
    built_in=BuiltIn(_chat, _pattern, settings="text-classification"),
    shard=READING_SIZE,
    headless_with="labels",
    headless_model="minilm",
)
# The two logits of a pair, by their names in a backend's output.
ENTAILMENT, CONTRADICTION = "entailment", "contradiction"
