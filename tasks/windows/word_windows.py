"""Long texts in windows of whole words that overlap, for models that read words.

Such a model has two limits: a number of words, and a number of tokens. A span of a text is decided in the window in
which it has the better context: where its nearest end of the window that is not an end of the text is the farthest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

from docmill.tasks.windows.windows import Encoded, Window

# Windows overlap by this part of their words.
_OVERLAP = 4


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text: word number i stands at ``[starts[i], ends[i])``, in characters, and has ``tokens[i]``."""

    starts: Sequence[int]
    ends: Sequence[int]
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class WordReader:
    """The part of a backend that cutting at words needs; safe to call from any thread.

    A window has at most ``most_words``, and ``limit_tokens`` with the ``overhead`` of prompt and special tokens. An
    entity has at most ``widest`` words.
    """

    words: Callable[[str], Words]
    most_words: int
    limit_tokens: int
    overhead: int
    widest: int


def cut_at_words(texts: Sequence[str], reader: WordReader) -> list[list[Window]]:
    """Return the windows of each text, in order; those of one text overlap by a quarter of their words, about."""
    return [_windows(text, reader) for text in texts]


def decided(
    windows: Sequence[Window], found: Sequence[Iterable[tuple[str, int, int, float]]]
) -> list[tuple[str, int, int, float]]:
    """Return the spans of a text, which do not overlap, from those ``found`` in each window, at places in the text.

    A span counts if it was found in the window with the better context for it. Of spans that overlap the one with
    the highest score stays, as within a window.
    """
    kept: list[tuple[str, int, int, float]] = []
    of_text = [
        span
        for number, spans in enumerate(found)
        for span in spans
        if len(windows) == 1 or _owner(windows, span[1], span[2]) == number
    ]
    for span in sorted(of_text, key=lambda one: -one[3]):
        if all(span[2] <= other[1] or other[2] <= span[1] for other in kept):
            kept.append(span)
    return kept


def _owner(windows: Sequence[Window], start: int, end: int) -> int:
    """Return the number of the window with the better context for a span, the first of those with the same."""

    def context(number: int) -> float:
        window = windows[number]
        before = inf if number == 0 else start - window.start
        after = inf if number == len(windows) - 1 else window.end - end
        return min(before, after)

    return max((number for number, one in enumerate(windows) if one.start <= start and end <= one.end), key=context)


def _windows(text: str, reader: WordReader) -> list[Window]:
    words = reader.words(text)
    room = reader.limit_tokens - reader.overhead
    if len(words.tokens) <= reader.most_words and sum(words.tokens) <= room:
        return [Window(0, len(text), Encoded(reader.overhead + sum(words.tokens), text))]
    stretches = stretches_of_words(words.tokens, reader.most_words, room, reader.widest)
    return [_window(text, words, first, end, reader, part=len(stretches) > 1) for first, end in stretches]


def stretches_of_words(tokens: Sequence[int], most_words: int, room: int, widest: int) -> list[tuple[int, int]]:
    """Return stretches ``[first, end)`` of words with so many tokens each, within both limits as far as possible.

    A word of more tokens than ``room`` is a stretch of its own. Stretches overlap by a quarter of their words, or by
    ``widest`` words if these are more; but by no more than half. The last is as long as the limits allow.
    """
    sums = [0, *accumulate(tokens)]
    found: list[tuple[int, int]] = []
    first = 0
    while True:
        end = first + 1
        while end < len(tokens) and end - first < most_words and sums[end + 1] - sums[first] <= room:
            end += 1
        if end == len(tokens):
            least = found[-1][0] + 1 if found else 0
            while first > least and end - first < most_words and sums[end] - sums[first - 1] <= room:
                first -= 1
            return [*found, (first, end)]
        found.append((first, end))
        n_words = end - first
        first = end - min(max(n_words // _OVERLAP, widest), n_words // 2)


def _window(text: str, words: Words, first: int, end: int, reader: WordReader, *, part: bool) -> Window:
    start, stop = words.starts[first], words.ends[end - 1]
    tokens = min(reader.limit_tokens, reader.overhead + sum(words.tokens[first:end]))
    return Window(start, stop, Encoded(tokens, text[start:stop]), part=part)
