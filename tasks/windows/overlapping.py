"""Long texts in windows that overlap, for tasks that decide each token by itself.

A text is tokenised once, and its windows are stretches of its tokens, each with the special tokens around it. So a
token is the same in each of its windows. It is decided in the window in which it has the better context: where it is
farther from the nearest end of the window that is not an end of the text.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from docmill.tasks.windows.places import Places
from docmill.tasks.windows.windows import Coder, Encoded, Window, cut

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Windows overlap by this part of their tokens: a token in the middle of an overlap sees an eighth of a window on
# its poorer side.
_OVERLAP = 4
# A text is tokenised in pieces of at most this many characters: a tokenizer takes a hundred times their room.
BLOCK_CHARS = 500_000


def cut_overlapping(texts: Sequence[str], coder: Coder, overlap_tokens: int = 0) -> list[list[Window]]:
    """Return the windows of each text, in order; those of one text overlap, if they can by so many tokens.

    Where ``coder`` does not tell the places of tokens, windows do not overlap.
    """
    blocks = [(number, start, end) for number, text in enumerate(texts) for start, end in _blocks(text)]
    encoded = coder.encode([texts[number][start:end] for number, start, end in blocks])
    windows: list[list[Window]] = []
    for _, group in groupby(zip(blocks, encoded, strict=True), key=lambda pair: pair[0][0]):
        pieces = [(start, one) for (_, start, _), one in group]
        text = texts[len(windows)]
        if any(one.places is None for _, one in pieces):
            windows += cut([text], coder)
        else:
            windows.append(_windows(text, _joined(pieces), coder.limit_tokens, overlap_tokens))
    return windows


def stretches(tokens: int, room: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Return stretches ``[first, end)`` of a text's tokens, at most ``room`` long, evenly spread over the text.

    They overlap by a quarter, or by ``overlap`` if that is more; but by no more than half, if not by chance.
    """
    if tokens <= room:
        return [(0, tokens)]
    step = room - max(room // _OVERLAP, min(overlap, room // 2))
    further = -((room - tokens) // step)
    firsts = [number * (tokens - room) // further for number in range(further + 1)]
    return [(first, first + room) for first in firsts]


def deciding(windows: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.bool_]]:
    """Return for each window ``[first, end)`` which of its tokens it decides: each token is decided once.

    A window decides a token if no other has a better context for it, the first of those that have the same.
    """
    import numpy as np

    tokens = max((end for _, end in windows), default=0)
    best = np.full(tokens, -1.0)
    owner = np.zeros(tokens, dtype=np.int64)
    for number, (first, end) in enumerate(windows):
        before = np.arange(1.0, end - first + 1)
        after = before[::-1]
        context = np.minimum(before if first > 0 else np.inf, after if end < tokens else np.inf)
        context = np.broadcast_to(context, before.shape)
        better = context > best[first:end]
        best[first:end][better] = context[better]
        owner[first:end][better] = number
    return [owner[first:end] == number for number, (first, end) in enumerate(windows)]


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Yield stretches that a tokenizer takes at once, cut before white space where there is some."""
    start = 0
    while len(text) - start > BLOCK_CHARS:
        end = start + BLOCK_CHARS
        while end > start + 1 and not (text[end].isspace() and not text[end - 1].isspace()):
            end -= 1
        end = end if end > start + 1 else start + BLOCK_CHARS
        yield start, end
        start = end
    yield start, len(text)


def _joined(pieces: Sequence[tuple[int, Encoded]]) -> Encoded:
    """Return a text's tokens from those of its pieces, each of which begins at a character of the text."""
    if len(pieces) == 1:
        return pieces[0][1]
    (_, head), (_, tail) = pieces[0], pieces[-1]
    assert head.places is not None
    assert tail.places is not None
    assert not isinstance(head.features, str)
    starts, ends, inside = array("i"), array("i"), array("b")
    for at, one in pieces:
        assert one.places is not None
        starts.extend(at + place for place in one.places.starts)
        ends.extend(at + place for place in one.places.ends)
        inside.extend(one.places.inside)
    features = {}
    for name in head.features:
        feature = array("i", head.feature(name)[: head.places.leading])
        for _, one in pieces:
            assert one.places is not None
            feature.extend(one.feature(name)[one.places.leading : one.places.leading + len(one.places)])
        feature.extend(tail.feature(name)[tail.places.leading + len(tail.places) :])
        features[name] = feature
    places = Places(head.places.leading, starts, ends, inside)
    return Encoded(len(features["input_ids"]), features, places=places)


def _windows(text: str, encoded: Encoded, limit_tokens: int, overlap_tokens: int) -> list[Window]:
    if encoded.tokens <= limit_tokens:
        return [Window(0, len(text), encoded)]
    places = encoded.places
    assert places is not None
    room = limit_tokens - (encoded.tokens - len(places))
    return [
        Window(places.starts[first], places.ends[end - 1], _stretch(encoded, places, first, end), part=True)
        for first, end in stretches(len(places), room, overlap_tokens)
    ]


def _stretch(encoded: Encoded, places: Places, first: int, end: int) -> Encoded:
    """Return these tokens of a text between the special ones."""
    assert not isinstance(encoded.features, str)
    features = {}
    for name, given in encoded.features.items():
        feature = array("i", given[: places.leading])
        feature.extend(given[places.leading + first : places.leading + end])
        feature.extend(given[places.leading + len(places) :])
        features[name] = feature
    kept = Places(
        places.leading, places.starts[first:end], places.ends[first:end], places.inside[first:end], first=first
    )
    return Encoded(len(features["input_ids"]), features, places=kept)
