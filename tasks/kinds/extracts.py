"""Extractive summaries: the sentences of a text that are nearest to the middle of them all, without repetition.

A sentence's score is the cosine of its vector with the centroid, the mean of all sentences' vectors of length 1
(Radev et al. 2004, "Centroid-based summarization of multiple documents"; with embeddings Rossiello et al. 2017).
Sentences are chosen one after the other by maximal marginal relevance (Carbonell and Goldstein 1998): the next
sentence has the highest ``RELEVANCE * score - (1 - RELEVANCE) * similarity``, where the similarity is its highest
cosine with a chosen sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.core.outcomes import Outcome
from storage.outputs.output_types import TEXT
from tasks.kinds.base import Again, Computed, windowed
from tasks.kinds.embed import mean_vector
from tasks.kinds.lengths import count_words
from tasks.outputs import Vector
from tasks.windows.paragraphs import unwrapped
from tasks.windows.sentences import holding, sentences
from tasks.windows.windows import Coder, Section, Window, cut

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

# The name and version of the rule in specs.
RULE = "centroid-mmr-1"
RELEVANCE = 0.7
SENTENCES = 3
# Headings, cells and other stretches with fewer words are chosen after all others.
_LEAST_WORDS = 4


@dataclass(frozen=True)
class Extract:
    """Cuts texts into sentences, and joins the best of them, verbatim and in the order of the text.

    The summary has at most so many ``words``, if any sentence is so short; None are as many as `SENTENCES` have.
    """

    words: int | None = None

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder, sections=sentences, clean=unwrapped, trim=True)

    def join(self, computed: Computed) -> Outcome | Again:
        import numpy as np

        text = computed.text
        found, rows = [], []
        for section in sentences(text):
            vectors, weights = _vectors(computed, section)
            if vectors:
                found.append(section)
                rows.append(mean_vector(np.stack(vectors), weights, normalize=True))
        if not all(np.isfinite(row).all() for row in rows):
            return computed.failed("The model's vectors for this text are not finite.")
        flags = windowed(computed.windows) if rows else ("empty",)
        chosen: Sequence[tuple[int, float]] = []
        if rows:
            words = [count_words(text[one.start : one.end]) for one in found]
            late = [one < _LEAST_WORDS for one in words]
            sizes, room = ([1] * len(words), SENTENCES) if self.words is None else (words, self.words)
            chosen = best(np.stack(rows), late, sizes, room)
        kept = TEXT.cited(text, [(found[place].start, found[place].end, score) for place, score in chosen])
        return computed.done(kept.text, data=dict(kept.data or {}), flags=flags)


def best(vectors: Vectors, late: Sequence[bool], sizes: Sequence[int], room: int) -> list[tuple[int, float]]:
    """Return the place and the score of each sentence of a summary, the best first; the ``late`` ones come last.

    ``vectors`` has shape (sentences, dim). The centroid is that of the sentences that are not late, if there are any.
    The sizes of the sentences add up to ``room`` at most: a sentence that does not fit is passed over. If none fits,
    the best is taken. Of sentences that are equally good the first comes first.
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
    fits = size <= room if (size <= room).any() else np.ones(len(units), dtype=bool)
    left, later = first & fits, ~first & fits
    if not left.any():
        left, later = later, left
    while left.any():
        worth = np.where(left, RELEVANCE * scores - (1 - RELEVANCE) * nearest, -np.inf)
        place = int(worth.argmax())
        similar = units @ units[place]
        nearest = np.maximum(nearest, similar) if chosen else similar
        chosen.append((place, float(scores[place])))
        room -= sizes[place]
        left[place] = False
        left, later = left & (size <= room), later & (size <= room)
        if not left.any():
            left, later = later, left
    return chosen


def _vectors(computed: Computed, section: Section) -> tuple[list[Vectors], list[int]]:
    """Return the vectors of the windows of a sentence, and how many tokens each has."""
    inside = holding(computed.windows, section)
    vectors, weights = [], []
    for window, output in zip(computed.windows[inside], computed.outputs[inside], strict=True):
        if window.encoded is not None:
            assert isinstance(output, Vector)
            vectors.append(output.values)
            weights.append(window.encoded.tokens)
    return vectors, weights
