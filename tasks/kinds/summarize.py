"""Summarizing: a model writes a summary, or an embedding model chooses sentences.

If a model writes, it summarizes the windows' summaries again, until they fit in one window.

An extractive summary has the sentences that are nearest to the centroid, without repetition. A sentence's score is
the cosine of its vector with the centroid, the mean of all sentences' vectors of length 1 (Radev et al. 2004,
"Centroid-based summarization of multiple documents"; with embeddings Rossiello et al. 2017). Sentences are chosen one
after the other by maximal marginal relevance (Carbonell and Goldstein 1998): the next sentence has the highest
``RELEVANCE * score - (1 - RELEVANCE) * similarity``, where the similarity is its highest cosine with a chosen
sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from docmill.storage.core.specs import Outcome, Spec
from docmill.storage.outputs.output_types import RANKING, TEXT
from docmill.tasks import checks, prompts
from docmill.tasks.checks import Checks, Context, all_checks
from docmill.tasks.checks.coverage import MISSING_SENTENCES
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.base import (
    Again,
    BuiltIn,
    Computed,
    Plan,
    Recipe,
    TaskKind,
    Traits,
    pattern,
    require_no_writing,
    windowed,
)
from docmill.tasks.kinds.embed import mean_vector, prompt_of_documents
from docmill.tasks.kinds.options import MOST, Option, Prefix, Searching, shown, wrong_value
from docmill.tasks.languages import UNSPACED
from docmill.tasks.models.families import Direction, Family
from docmill.tasks.outputs import Generated, Head, Vector
from docmill.tasks.prompts import PromptFrame
from docmill.tasks.windows.paragraphs import holding, sentences, unwrapped
from docmill.tasks.windows.windows import Coder, Window, cut, tokens_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]


# If a round leaves more than this share of the text's characters, there is no other round.
ENOUGH = 0.9
# An eighth of the shipped model's greedy outputs have less, and three in four of these are bad
# (bench/results/confidence.md).
_LEAST_CONFIDENCE = 0.25
# The name and version of the rule in specs.
RULE = "centroid-mmr-1"
RELEVANCE = 0.7
SENTENCES = 3
# Sentences with fewer words, such as headings and cells, are chosen last.
_LEAST_WORDS = 4
LENGTHS: Mapping[str, int] = MappingProxyType({"short": 30, "medium": 75, "long": 150})
LENGTH_SCHEMA = {"anyOf": [{"enum": [*LENGTHS]}, {"type": "integer", "minimum": 1}]}
# An English word has about 1.3 tokens: the limits leave room for other languages, and for shorter outputs.
_MOST_TOKENS_PER_WORD = 2
_WORDS_PER_LEAST_TOKEN = 2
_PAIR = re.compile(f"[{UNSPACED}]{{1,2}}")


@dataclass(frozen=True)
class Summarize(Recipe):
    """Joins the summaries of windows, or has them summarized again."""

    def join(self, computed: Computed) -> Outcome | Again:
        parts = [output for output in computed.outputs if isinstance(output, Generated)]
        text = "\n".join(part.text for part in parts if part.text.strip())
        flags = ("output_truncated",) if any(part.truncated for part in parts) else ()
        if len(parts) > 1 and text:
            if len(text) <= len(computed.text) * ENOUGH:
                return Again(text, (*flags, "reduced"))
            flags = (*flags, "not_reduced")
        if not text:
            flags = (*flags, "empty")
        return computed.done(text, flags=flags)


@dataclass(frozen=True)
class Excerpt:
    """Cuts texts into sentences, and joins the best sentences, verbatim and in the order of the text.

    The summary has at most ``words`` words, if any sentence is that short; if None, it has `SENTENCES` sentences.
    """

    words: int | None = None

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder, sections=sentences, clean=unwrapped, trim=True)

    def join(self, computed: Computed) -> Outcome | Again:
        import numpy as np

        text = computed.text
        stretches, rows = [], []
        for section in sentences(text):
            inside = holding(computed.windows, section)
            vectors = [output.values for output in computed.outputs[inside] if isinstance(output, Vector)]
            if vectors:
                stretches.append(section)
                weights = tokens_of(computed.windows[inside])
                rows.append(mean_vector(np.stack(vectors), weights, normalize=True))
        if not all(np.isfinite(row).all() for row in rows):
            return computed.failed("The model's vectors for this text are not finite.")
        if not rows:
            return computed.done(TEXT.cited(text, []), flags=("empty",))
        words = [count_words(text[sentence.start : sentence.end]) for sentence in stretches]
        late = [n_words < _LEAST_WORDS for n_words in words]
        sizes, room = ([1] * len(words), SENTENCES) if self.words is None else (words, self.words)
        chosen = best(np.stack(rows), late, sizes, room)
        stored = TEXT.cited(text, [(stretches[place].start, stretches[place].end, score) for place, score in chosen])
        return computed.done(stored, flags=windowed(computed.windows))


def best(vectors: Vectors, late: Sequence[bool], sizes: Sequence[int], room: int) -> list[tuple[int, float]]:
    """Return the place and the score of each sentence of a summary, the best first. ``late`` sentences come last.

    ``vectors`` has shape (sentences, dim). The centroid is that of the other sentences, if there are any. The sizes
    of the chosen sentences add up to at most ``room``: a sentence that does not fit is skipped. If none fits, the
    best is chosen. Equal sentences keep their order.
    """
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors.astype(np.float64) / np.where(lengths > 0, lengths, 1)
    last, size = np.asarray(late), np.asarray(sizes)
    first = np.ones(len(units), dtype=bool) if last.all() else ~last
    centroid = units[first].mean(axis=0)
    length = np.linalg.norm(centroid)
    scores = units @ (centroid / length if length > 0 else centroid)
    nearest = np.zeros(len(units))
    chosen: list[tuple[int, float]] = []
    left = size <= room if (size <= room).any() else np.ones(len(units), dtype=bool)
    while left.any():
        next_ones = left & first if (left & first).any() else left
        worth = np.where(next_ones, RELEVANCE * scores - (1 - RELEVANCE) * nearest, -np.inf)
        place = int(worth.argmax())
        similar = units @ units[place]
        nearest = np.maximum(nearest, similar) if chosen else similar
        chosen.append((place, float(scores[place])))
        room -= sizes[place]
        left[place] = False
        left &= size <= room
    return chosen


def _chat(spec: Spec) -> PromptFrame:
    length = f"about {spec.params['length']} words" if "length" in spec.params else "one to three sentences"
    return PromptFrame(f"Summarize the following text in {length}. Answer with the summary only.\n\n", "")


def _pattern(_spec: Spec, shown: bool) -> PromptFrame:
    return pattern("Text", "Summary", (prompts.SUMMARIZED,) if shown else ())


def words_of_length(value: object) -> int | None:
    """Return the number of words for a length. Raises PydanticCustomError. Its message follows the option's name."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value in LENGTHS:
        return LENGTHS[value]
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    sentence = f"must be {', '.join(LENGTHS)} or a number of words, not {shown(value)}"
    raise wrong_value(sentence)


def token_limits(words: int) -> dict[str, int]:
    """Return the parameters of specs for an output of so many words."""
    return {
        "min_new_tokens": words // _WORDS_PER_LEAST_TOKEN,
        "max_new_tokens": words * _MOST_TOKENS_PER_WORD,
    }


def count_words(text: str) -> int:
    """Return the number of words in a text. Two characters of a script without spaces count as a word."""
    pairs = len(_PAIR.findall(text))
    others = _PAIR.sub(" ", text).split()
    return pairs + sum(any(character.isalnum() for character in word) for word in others)


class SummarizeOptions(Searching):
    """Options of `summarize`."""

    prefix: Prefix = None
    length: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST // 2,
            description=f"Length of a summary: {', '.join(f'{name} ({n} words)' for name, n in LENGTHS.items())}, or "
            "about so many words.",
            examples=[60],
        ),
        BeforeValidator(words_of_length),  # after the bounds, which do not apply to None
        WithJsonSchema(LENGTH_SCHEMA),
        Option(metavar="|".join([*LENGTHS, "WORDS"]), has_names=True),
    ] = None


def _params(plan: Plan) -> dict[str, Any]:
    """Return the limits of a length in tokens, or the parameters of an embedding model. Raises BadOption."""
    if plan.family is not Family.ENCODER:
        if "length" not in plan.options:
            return {}
        limits = token_limits(plan.options["length"])
        if both := limits.keys() & plan.options.keys():
            raise BadOption(f"--length sets --{min(both).replace('_', '-')} itself: give one of them.")
        return limits
    require_no_writing(plan, "chooses sentences of the document")
    return {RANKING: RULE, **prompt_of_documents(plan)}


def _recipe(spec: Spec, _traits: Traits) -> Recipe:
    return Excerpt(spec.params.get("length")) if RANKING in spec.params else Summarize()


def _checks(spec: Spec, _direction: Direction) -> Checks:
    """Return the checks of written summaries. With --prompt, they may be in another language."""
    if RANKING in spec.params:
        return checks.NONE
    suited = tuple(flag for flag in all_checks() if flag != MISSING_SENTENCES.flag)
    context = Context(shortened=True, same_language="prompt" not in spec.params)
    return Checks(suited, context, _LEAST_CONFIDENCE)


SUMMARIZE = TaskKind(
    name="summarize",
    summary="Write a summary of each document, or choose its best sentences.",
    example="notes/",
    options=SummarizeOptions,
    output=TEXT,
    heading="summary",
    families=MappingProxyType(
        {Family.SEQ2SEQ: Head.SEQ2SEQ_TEXT, Family.DECODER: Head.CAUSAL_TEXT, Family.ENCODER: Head.POOLING}
    ),
    recipe=_recipe,
    params=_params,
    default_model="synopsis-ddtp",
    other_models=lambda _options: ("facebook/bart-large-cnn", "google/pegasus-xsum"),
    built_in=BuiltIn(_chat, _pattern, settings="summarization", prefix="summarize: "),
    null_words=16,
    marks=MappingProxyType({Head.POOLING: RANKING}),
    checks=_checks,
)
