"""Entities from the scores of tokens, as the token-classification pipeline of transformers defines them.

A label such as ``B-PER`` begins an entity ``PER``, ``I-PER`` goes on with one, and so does a label without such a
prefix. ``O`` is no entity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from tasks.windows.windows import trimmed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Strategy = Literal["simple", "first", "average", "max"]
OUTSIDE = "O"


def entities(
    text: str,
    labels: Sequence[str],
    scores: npt.NDArray[np.float32],
    starts: Sequence[int],
    ends: Sequence[int],
    inside: Sequence[int],
    strategy: Strategy,
) -> list[tuple[str, int, int, float]]:
    """Return the entities of a text, each (label, start, end, score).

    ``scores`` has shape (tokens, labels), float32. A token stands at ``[start, end)`` in the text and is ``inside``
    if it goes on with the word of the token before. With ``simple`` each token has its best label. Otherwise all
    tokens of a word have one: that of the first token, of the token with the highest score, or of the mean of their
    scores. An entity's score is the mean of its tokens' or words' scores. White space at its ends is left out, and an
    entity of nothing else.
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
    words = _of_words(scores, firsts, lasts, strategy)
    places, best = words.argmax(axis=1), words.max(axis=1)
    tags = [_tag(label) for label in labels]
    found = []
    for begin, end in _runs([tags[place] for place in places]):
        label = labels[places[begin]].split("-", 1)[-1]
        start, stop = trimmed(text, starts[firsts[begin]], ends[lasts[end - 1]])
        if label != OUTSIDE and start < stop:
            found.append((label, start, stop, float(best[begin:end].mean())))
    return found


def _of_words(
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
    """Return the names of the entities that a model with these labels of tokens finds."""
    return frozenset(_tag(label)[1] for label in labels) - {OUTSIDE}


def _tag(label: str) -> tuple[bool, str]:
    """Return True for a label that begins an entity, and the entity's name."""
    prefixed = label.startswith(("B-", "I-"))
    return label.startswith("B-"), label[2:] if prefixed else label


def _runs(tags: Sequence[tuple[bool, str]]) -> list[tuple[int, int]]:
    """Return the stretches ``[begin, end)`` of neighbours that are one entity."""
    cuts = [n for n, (begins, name) in enumerate(tags) if n == 0 or begins or name != tags[n - 1][1]]
    return list(zip(cuts, [*cuts[1:], len(tags)], strict=True))
