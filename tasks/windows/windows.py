"""Long texts in pieces that fit the model, each with its place in the text.

Everything is counted with the model's own tokenizer, on the very string that the model will read, so that a
window that was cut to fit does fit.

Where a task decides each token by itself, windows overlap. A text is tokenized once, and its windows are stretches of
its tokens, each with the special tokens around it, so that a token is the same in each of its windows. It is decided
in the window in which it has the better context: where it is farther from the nearest end of the window that is not
an end of the text. A model that reads words has windows of whole words, which overlap in the same way.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, groupby
from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


# A text with this many characters for each token of the limit is not tokenized to learn that it must be cut.
LONG_CHARS_PER_TOKEN = 64
LEAST_TEXT_TOKENS = 8  # of a text, for which each window has room
_MARGIN = 1.25
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Encoded:
    """The input of a model for one window: token features by name, or the text if the model tokenizes it.

    ``tokens`` includes special tokens and the prompt. ``language`` names the model, if there is one per language.
    ``places`` are those of the tokens in the text, for tasks that need them.
    """

    tokens: int
    features: Mapping[str, Sequence[int]] | str
    language: str | None = None
    places: Places | None = None

    @property
    def ids(self) -> Sequence[int]:
        """The token ids of a window that is not given as text."""
        return self.feature("input_ids")

    def feature(self, name: str) -> Sequence[int]:
        """Return a feature of each token, such as ``token_type_ids``."""
        assert not isinstance(self.features, str)
        return self.features[name]


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch ``[start, end)`` of a text that is computed on its own; ``verbatim`` ones are copied."""

    start: int
    end: int
    verbatim: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch ``[start, end)`` of a text as the model reads it; ``encoded`` is None when it is copied.

    ``part`` tells that it is one of several that a section had to be cut into.
    """

    start: int
    end: int
    encoded: Encoded | None
    part: bool = False

    @property
    def places(self) -> Places | None:
        """The places of the window's tokens, if they are known."""
        return None if self.encoded is None else self.encoded.places


def tokens_of(windows: Iterable[Window]) -> list[int]:
    """Return the number of tokens of each window that the model reads."""
    return [window.encoded.tokens for window in windows if window.encoded is not None]


class Coder(Protocol):
    """The part of a backend that cutting needs: safe to call from any thread."""

    @property
    def limit_tokens(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> list[Encoded]: ...


def whole(text: str) -> list[Section]:
    return [Section(0, len(text))]


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the stretch without white space at its ends."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, max(start, start + len(piece.strip()))


def split(text: str, count: Callable[[str], int], limit_tokens: int) -> list[tuple[int, int]]:
    """Stretches of ``text`` within the limit, cut at paragraph, sentence, word or, last, character borders.

    Their concatenation is the text. The splitter looks ahead at each cut, to the end of what it was given; so it
    is given blocks, and the last piece of a block, which may be short only because the block ended, begins the
    next block. No stretch is longer than a block, however few its tokens are.
    """
    from semantic_text_splitter import TextSplitter

    block_chars = limit_tokens * LONG_CHARS_PER_TOKEN
    splitter = TextSplitter.from_callback(_seeing_enough(count, limit_tokens), limit_tokens, trim=False)
    spans, start = [], 0
    while start < len(text):
        pieces = splitter.chunks(text[start : start + block_chars])
        if len(pieces) > 1 and start + block_chars < len(text):
            pieces.pop()
        for piece in pieces:
            spans.append((start, start + len(piece)))
            start += len(piece)
    return spans


def _seeing_enough(count: Callable[[str], int], limit_tokens: int) -> Callable[[str], int]:
    """``count``, but of a long piece only as much as shows that it is over the limit, guessed from what was counted
    last. The splitter asks for some pieces again and again: the last ones are remembered."""
    chars_per_token = 4.0
    remembered = lru_cache(maxsize=_REMEMBERED)(count)

    def seeing_enough(piece: str) -> int:
        nonlocal chars_per_token
        seen_chars = max(int(limit_tokens * chars_per_token * _MARGIN), limit_tokens)
        while True:
            seen = piece[:seen_chars]
            tokens = remembered(seen)
            chars_per_token = len(seen) / max(tokens, 1)
            if tokens > limit_tokens or seen_chars >= len(piece):
                return tokens
            seen_chars *= 2

    return seeing_enough


def cut(
    texts: Sequence[str],
    coder: Coder,
    sections: Callable[[str], list[Section]] = whole,
    clean: Callable[[str], str] = str,
    trim: bool = False,
) -> list[list[Window]]:
    """Return the windows of each text, in order.

    ``sections`` says where windows must be cut; ``clean`` turns a stretch into what the model reads; with
    ``trim`` the white space between windows belongs to none of them. A section that fits is one window and is
    tokenized once, together with those of the other texts.
    """
    parts = [(number, section) for number, text in enumerate(texts) for section in sections(text)]
    limit_tokens = coder.limit_tokens
    # A section this long is not tokenized only to learn that it must be cut.
    short = [
        part
        for part in parts
        if not part[1].verbatim and part[1].end - part[1].start <= limit_tokens * LONG_CHARS_PER_TOKEN
    ]
    first = dict(
        zip(
            ((number, section.start) for number, section in short),
            coder.encode([clean(texts[number][section.start : section.end]) for number, section in short]),
            strict=True,
        )
    )
    windows: list[list[Window]] = [[] for _ in texts]
    for number, section in parts:
        encoded = first.get((number, section.start))
        if section.verbatim or (encoded is not None and encoded.tokens <= limit_tokens):
            windows[number].append(Window(section.start, section.end, encoded))
        else:
            windows[number] += _pieces(texts[number], section, coder, clean, trim)
    return windows


def _pieces(text: str, section: Section, coder: Coder, clean: Callable[[str], str], trim: bool) -> list[Window]:
    """Return the windows of a section that is over the limit."""

    def count(piece: str) -> int:
        return coder.encode([clean(piece)])[0].tokens

    spans = [
        (section.start + start, section.start + end)
        for start, end in split(text[section.start : section.end], count, coder.limit_tokens)
    ]
    if trim:
        spans = [span for span in (trimmed(text, *span) for span in spans) if span[0] < span[1]]
    encoded = coder.encode([clean(text[start:end]) for start, end in spans])
    pieces: list[Window] = []
    for (start, end), code in zip(spans, encoded, strict=True):
        if text[start:end].isspace():
            pieces.append(Window(start, end, None))
        else:
            pieces += _fitting(text, Window(start, end, code), coder, clean)
    several = sum(piece.encoded is not None for piece in pieces) > 1
    return [replace(piece, part=True) for piece in pieces] if several else pieces


def _fitting(text: str, window: Window, coder: Coder, clean: Callable[[str], str]) -> list[Window]:
    """Return the window, or its halves if the splitter's count is not that of the whole.

    Some tokenizers count a string shorter than its parts; a single character is never cut.
    """
    assert window.encoded is not None
    if window.encoded.tokens <= coder.limit_tokens or window.end - window.start < 2:
        return [window]
    middle = (window.start + window.end) // 2
    halves = [(window.start, middle), (middle, window.end)]
    encoded = coder.encode([clean(text[start:end]) for start, end in halves])
    return [
        piece
        for (start, end), code in zip(halves, encoded, strict=True)
        for piece in _fitting(text, Window(start, end, code), coder, clean)
    ]


@dataclass(frozen=True, slots=True)
class Places:
    """The places of the tokens of a window, without special ones: an entry for each in ``starts`` and ``ends``.

    Token number i stands at ``[starts[i], ends[i])`` in the text, in characters. ``inside[i]`` is 1 if it goes on
    with the word of the token before. ``leading`` is how many special tokens come before them in the window, and
    ``first`` how many tokens of the text.
    """

    leading: int
    starts: array[int]
    ends: array[int]
    inside: array[int]
    first: int = 0

    def __len__(self) -> int:
        return len(self.starts)


# Windows overlap by this part of their tokens, or words: one in the middle of an overlap sees an eighth of a window
# on its poorer side.
_OVERLAP = 4
# A text is tokenized in pieces of at most this many characters: a tokenizer takes a hundred times their room.
BLOCK_CHARS = 500_000


def cut_overlapping(texts: Sequence[str], coder: Coder, overlap_tokens: int = 0) -> list[list[Window]]:
    """Return the windows of each text, in order; those of one text overlap, if they can by so many tokens.

    Where ``coder`` does not tell the places of tokens, windows do not overlap.
    """
    blocks = [(number, start, end) for number, text in enumerate(texts) for start, end in _blocks(text)]
    encoded = coder.encode([texts[number][start:end] for number, start, end in blocks])
    windows: list[list[Window]] = []
    for _, group in groupby(zip(blocks, encoded, strict=True), key=lambda pair: pair[0][0]):
        of_text = [*group]
        pieces = [(start, block, block.places) for (_, start, _), block in of_text if block.places is not None]
        text = texts[len(windows)]
        if len(pieces) < len(of_text):
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


def _joined(pieces: Sequence[tuple[int, Encoded, Places]]) -> Encoded:
    """Return a text's tokens from those of its pieces, each of which begins at a character of the text."""
    if len(pieces) == 1:
        return pieces[0][1]
    pieces = [piece for piece in pieces if len(piece[2])] or pieces[:1]  # the others are white space
    (_, head, first), (_, tail, last) = pieces[0], pieces[-1]
    assert not isinstance(head.features, str)
    starts, ends, inside = array("i"), array("i"), array("b")
    for at, _, places in pieces:
        starts.extend(at + place for place in places.starts)
        ends.extend(at + place for place in places.ends)
        inside.extend(places.inside)
    features = {}
    for name in head.features:
        feature = array("i", head.feature(name)[: first.leading])
        for _, piece, places in pieces:
            feature.extend(piece.feature(name)[places.leading : places.leading + len(places)])
        feature.extend(tail.feature(name)[last.leading + len(last) :])
        features[name] = feature
    return Encoded(len(features["input_ids"]), features, places=Places(first.leading, starts, ends, inside))


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
    for name, feature_of_text in encoded.features.items():
        feature = array("i", feature_of_text[: places.leading])
        feature.extend(feature_of_text[places.leading + first : places.leading + end])
        feature.extend(feature_of_text[places.leading + len(places) :])
        features[name] = feature
    kept = Places(
        places.leading, places.starts[first:end], places.ends[first:end], places.inside[first:end], first=first
    )
    return Encoded(len(features["input_ids"]), features, places=kept)


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
    return [_windows_of_words(text, reader, reader.words(text)) for text in texts]


def decided(
    windows: Sequence[Window], spans_by_window: Sequence[Iterable[tuple[str, int, int, float]]]
) -> list[tuple[str, int, int, float]]:
    """Return the spans of a text, which do not overlap, from those found in each window, at places in the text.

    A span counts if it was found in the window with the better context for it. Of spans that overlap the one with
    the highest score stays, as within a window.
    """
    kept: list[tuple[str, int, int, float]] = []
    taken = bytearray(windows[-1].end if windows else 0)
    of_text = [
        span
        for number, spans in enumerate(spans_by_window)
        for span in spans
        if len(windows) == 1 or _owner(windows, span[1], span[2]) == number
    ]
    for span in sorted(of_text, key=lambda found_span: -found_span[3]):
        _, start, end, _ = span
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            kept.append(span)
    return kept


def _owner(windows: Sequence[Window], start: int, end: int) -> int:
    """Return the number of the window with the better context for a span, the first of those with the same."""

    def context(number: int) -> float:
        window = windows[number]
        before = inf if number == 0 else start - window.start
        after = inf if number == len(windows) - 1 else window.end - end
        return min(before, after)

    first = bisect_left(windows, end, key=lambda window: window.end)
    return max(range(first, bisect_right(windows, start, key=lambda window: window.start)), key=context)


def _windows_of_words(text: str, reader: WordReader, words: Words) -> list[Window]:
    room = reader.limit_tokens - reader.overhead
    if len(words.tokens) <= reader.most_words and sum(words.tokens) <= room:
        return [Window(0, len(text), Encoded(reader.overhead + sum(words.tokens), text))]
    windows = []
    stretches = stretches_of_words(words.tokens, reader.most_words, room, reader.widest)
    for first, last in stretches:
        start, end = words.starts[first], words.ends[last - 1]
        tokens = min(reader.limit_tokens, reader.overhead + sum(words.tokens[first:last]))
        windows.append(Window(start, end, Encoded(tokens, text[start:end]), part=len(stretches) > 1))
    return windows


def stretches_of_words(tokens: Sequence[int], most_words: int, room: int, widest: int) -> list[tuple[int, int]]:
    """Return stretches ``[first, end)`` of words with so many tokens each, within both limits as far as possible.

    A word of more tokens than ``room`` is a stretch of its own. Stretches overlap by a quarter of their words, or by
    ``widest`` words if these are more; but by no more than half. The last is as long as the limits allow.
    """
    sums = [0, *accumulate(tokens)]
    ranges: list[tuple[int, int]] = []
    first = 0
    while True:
        end = first + 1
        while end < len(tokens) and end - first < most_words and sums[end + 1] - sums[first] <= room:
            end += 1
        if end == len(tokens):
            least = ranges[-1][0] + 1 if ranges else 0
            while first > least and end - first < most_words and sums[end] - sums[first - 1] <= room:
                first -= 1
            return [*ranges, (first, end)]
        ranges.append((first, end))
        n_words = end - first
        first = end - min(max(n_words // _OVERLAP, widest), n_words // 2)
