"""Named entities: the parts of each text that a token classifier labels, or that fit a user's labels.

Entities follow from the scores of tokens as in transformers' token-classification pipeline. A label such as ``B-PER``
begins an entity ``PER``. ``I-PER``, or a label without such a prefix, continues an entity. ``O`` is no entity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from docmill.storage.core.specs import READING_SIZE, Outcome, Spec
from docmill.storage.outputs.output_types import SPANS
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.base import NOT_FINITE, Again, Computed, Plan, Recipe, TaskKind, Traits, least, windowed
from docmill.tasks.kinds.options import GivenLabels, KindOptions, Option, list_labels
from docmill.tasks.models import gliner
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Head, Spans, TokenScores
from docmill.tasks.windows.windows import (
    Coder,
    Places,
    Window,
    WordReader,
    cut_at_words,
    cut_overlapping,
    decided,
    deciding,
    trimmed,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


Strategy = Literal["simple", "first", "average", "max"]
LabeledSpan: TypeAlias = tuple[str, int, int, float]  # label, start, end, score
OUTSIDE = "O"
AGGREGATION: Strategy = "simple"
THRESHOLD = 0.5


@dataclass(frozen=True)
class Entities:
    """Cuts texts into windows that overlap, and finds entities in the scores of all their tokens."""

    aggregation: Strategy = AGGREGATION

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut_overlapping(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        spans = find_labeled(computed, self.aggregation)
        if spans is None:
            return computed.failed(NOT_FINITE)
        return _outcome(computed, spans)


@dataclass(frozen=True)
class Matching:
    """Cuts texts at words into windows that overlap, and takes each entity from the window with the best context."""

    reader: WordReader

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut_at_words(texts, self.reader)

    def join(self, computed: Computed) -> Outcome | Again:
        spans = [
            [(span.label, window.start + span.start, window.start + span.end, span.score) for span in output.spans]
            for window, output in zip(computed.windows, computed.outputs, strict=True)
            if isinstance(output, Spans)
        ]
        return _outcome(computed, decided(computed.windows, spans))


def _outcome(computed: Computed, spans: Sequence[LabeledSpan]) -> Outcome:
    """Return the outcome of a text with these entities."""
    confidence = least(score for *_, score in spans)
    return computed.done(SPANS.stored(computed.text, spans), flags=windowed(computed.windows), confidence=confidence)


def _recipe(spec: Spec, traits: Traits) -> Recipe:
    if "labels" in spec.params and traits.words is not None:
        return Matching(traits.words)
    return Entities(spec.params.get("aggregation", AGGREGATION))


# The option of kinds that label parts of a text.
Aggregation = Annotated[
    Strategy | None,
    Field(
        description="Label of a word whose tokens have different labels (simple: each token keeps its own; "
        "first: the first token's; average: that of the highest mean score; max: that of the highest score).  "
        f"[default: {AGGREGATION}]"
    ),
    Option("word-label"),
]


class EntitiesOptions(KindOptions):
    """Options of `entities`."""

    defaults = MappingProxyType({"aggregation": AGGREGATION, "threshold": THRESHOLD})
    labels: GivenLabels = None
    aggregation: Aggregation = None
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
    """Return the labels in the order in which the model reads them.

    Raises BadOption if options do not fit the model, and ModelUnsuitable for a GLiNER model of another design.
    """
    options = plan.options
    labels: Mapping[str, str] = options.get("labels", {})
    if len(set(labels.values())) < len(labels):
        raise BadOption("--labels describes two labels with the same words: describe each with its own.")
    if plan.family is Family.GLINER:
        gliner.require(plan.config, plan.model)
        if not labels:
            raise BadOption(
                f"{plan.model} is a GLiNER model, which has no labels of its own: name those to find with --labels, "
                "such as --labels person,disease."
            )
        if "adapter" in options:
            raise BadOption(
                f"--adapter is not for GLiNER models such as {plan.model}: name the adapted model itself."
            )
        if "aggregation" in options:
            raise BadOption(
                f"--word-label joins the tokens of a word; {plan.model} is a GLiNER model, which reads whole words: "
                "leave it out."
            )
    elif plan.config:
        if labels:
            raise BadOption(
                f"--labels needs a GLiNER model, which finds any labels; {plan.model} has labels of its own. Leave "
                "--labels out, or name a GLiNER model with --model."
            )
        if "threshold" in options:
            raise BadOption(
                f"--threshold is for GLiNER models; {plan.model} scores tokens for labels of its own: leave it out."
            )
    return {"labels": list_labels(labels)} if labels else {}


def find_labeled(computed: Computed, aggregation: Strategy) -> list[LabeledSpan] | None:
    """Return the labeled parts of a text, each (label, start, end, score); None if a score is not finite."""
    outputs = zip(computed.windows, computed.outputs, strict=True)
    pairs = [(window, output) for window, output in outputs if output is not None]
    scored = [
        (window.places, output)
        for window, output in pairs
        if isinstance(output, TokenScores) and window.places is not None
    ]
    if len(scored) == len(pairs):
        return _read_tokens(computed.text, scored, aggregation)
    # The backend found spans itself, at places in the window.
    return [
        (span.label, window.start + span.start, window.start + span.end, span.score)
        for window, output in pairs
        if isinstance(output, Spans)
        for span in output.spans
    ]


def _read_tokens(
    text: str, scored: Sequence[tuple[Places, TokenScores]], aggregation: Strategy
) -> list[LabeledSpan] | None:
    import numpy as np

    if not scored:
        return []
    kept = deciding([(places.first, places.first + len(places)) for places, _ in scored])
    scores = np.concatenate([output.scores[keep] for (_, output), keep in zip(scored, kept, strict=True)])
    if not np.isfinite(scores).all():
        return None
    starts, ends, inside = (
        np.concatenate([np.asarray(part)[keep] for part, keep in zip(parts, kept, strict=True)]).tolist()
        for parts in zip(*((places.starts, places.ends, places.inside) for places, _ in scored), strict=True)
    )
    return entities(text, scored[0][1].labels, scores, starts, ends, inside, aggregation)


def entities(
    text: str,
    labels: Sequence[str],
    scores: npt.NDArray[np.float32],
    starts: Sequence[int],
    ends: Sequence[int],
    inside: Sequence[int],
    strategy: Strategy,
) -> list[LabeledSpan]:
    """Return the entities of a text, each (label, start, end, score).

    ``scores`` has shape (tokens, labels), float32. A token is at ``[start, end)`` in the text, and ``inside`` if it
    continues the word of the token before. With ``simple``, each token has its best label. Otherwise all tokens of a
    word have the same label: that of the first token, of the token with the highest score, or of the mean scores. An
    entity's score is the mean of its tokens' or words' scores. Entities lose white space at their ends, and must have
    other characters.
    """
    import numpy as np

    if not len(scores):
        return []
    begins = np.ones(len(scores), dtype=bool)
    if strategy != "simple":
        begins = np.asarray(inside) == 0
        begins[0] = True
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], len(scores)) - 1
    words = _score_words(scores, firsts, lasts, strategy)
    places, best = words.argmax(axis=1), words.max(axis=1)
    tags = [_tag(label) for label in labels]
    spans = []
    for begin, end in _runs([tags[place] for place in places]):
        label = _name(labels[places[begin]])
        start, stop = trimmed(text, starts[firsts[begin]], ends[lasts[end - 1]])
        if label != OUTSIDE and start < stop:
            spans.append((label, start, stop, float(best[begin:end].mean())))
    return spans


def _score_words(
    scores: npt.NDArray[np.float32], firsts: npt.NDArray[np.int64], lasts: npt.NDArray[np.int64], strategy: Strategy
) -> npt.NDArray[np.float32]:
    """Return the scores of each word's labels."""
    import numpy as np

    if strategy == "average":
        counts = (lasts - firsts + 1).astype(np.float32)
        return np.divide(np.add.reduceat(scores, firsts, axis=0), counts[:, None], dtype=np.float32)
    if strategy == "max":
        peaks = scores.max(axis=1)
        highest = np.repeat(np.maximum.reduceat(peaks, firsts), lasts - firsts + 1)
        reached = np.flatnonzero(peaks == highest)
        return scores[reached[np.searchsorted(reached, firsts)]]
    return scores[firsts]


def names(labels: Iterable[str]) -> frozenset[str]:
    """Return the names of the entities that a model with these labels finds."""
    return frozenset(map(_name, labels)) - {OUTSIDE}


def _name(label: str) -> str:
    """Return the entity's name in a label, as transformers does: the part after the first hyphen, or the label."""
    return label.split("-", 1)[-1]


def _tag(label: str) -> tuple[bool, str]:
    """Return True if a label begins an entity, and the entity's name."""
    prefixed = label.startswith(("B-", "I-"))
    return label.startswith("B-"), label[2:] if prefixed else label


def _runs(tags: Sequence[tuple[bool, str]]) -> list[tuple[int, int]]:
    """Return the stretches ``[begin, end)`` of tokens that are one entity."""
    cuts = [n for n, (begins, name) in enumerate(tags) if n == 0 or begins or name != tags[n - 1][1]]
    return list(zip(cuts, [*cuts[1:], len(tags)], strict=True))


ENTITIES = TaskKind(
    name="entities",
    verb="find entities",
    summary="Find named entities in each document.",
    options=EntitiesOptions,
    output=SPANS,
    heading="entities",
    families=MappingProxyType({Family.ENCODER: Head.TAGGING, Family.GLINER: Head.MATCHING}),
    recipe=_recipe,
    params=_params,
    default_model="entities-ddtp",
    other_models=lambda _options: ("dslim/bert-base-NER", "Davlan/xlm-roberta-base-ner-hrl"),
    shard=READING_SIZE,
    marks=MappingProxyType({Head.MATCHING: "labels"}),
)
