"""Long texts cut into windows that fit the model, each with its place in the text.

The model's own tokenizer counts the tokens of the very string that the model reads, so that a window fits.

If a task decides each token by itself, windows overlap. A text is tokenized once, and its windows are stretches of
its tokens with special tokens around them, so that a token is the same in each of its windows. The window with the
best context decides a token: the window in which the token is farthest from an end that is not an end of the text. A
model that reads words has windows of whole words, which overlap in the same way.
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


# A text with more characters for each token of the limit is cut without tokenizing it first.
LONG_CHARS_PER_TOKEN = 64
LEAST_TEXT_TOKENS = 8  # the room for text in each window
_MARGIN = 1.25
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Encoded:
    """The input of a model for one window: token features by name, or the text if the model tokenizes it.

    ``tokens`` includes special tokens and the prompt. ``language`` chooses the model, if there is one for each
    language.
    ``places`` are the places of the tokens in the text, for tasks that need them.
    """

    tokens: int
    features: Mapping[str, Sequence[int]] | str
    language: str | None = None
    places: Places | None = None

    @property
    def ids(self) -> Sequence[int]:
        """The token ids of a window with token features."""
        return self.feature("input_ids")

    def feature(self, name: str) -> Sequence[int]:
        """Return a feature of each token, such as ``token_type_ids``."""
        assert not isinstance(self.features, str)
        return self.features[name]


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch ``[start, end)`` of a text that is computed by itself, or copied if it is ``verbatim``."""

    start: int
    end: int
    verbatim: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch ``[start, end)`` of a text as the model reads it. ``encoded`` is None if the stretch is copied.

    ``part``: the window is one of several windows of a section.
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
    """The part of a backend that cuts texts. Safe to call from any thread."""

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
    """Return stretches of ``text`` within the limit, cut between paragraphs, sentences, words or, last, characters.

    Together they are the whole text. The splitter looks ahead to the end of its input, so it gets the text in blocks.
    The last piece of a block may be too short, so it begins the next block. No stretch is longer than a block.
    """
    from semantic_text_splitter import TextSplitter

    block_chars = limit_tokens * LONG_CHARS_PER_TOKEN
    splitter = TextSplitter.from_callback(_stop_counting_early(count, limit_tokens), limit_tokens, trim=False)
    spans, start = [], 0
    while start < len(text):
        pieces = splitter.chunks(text[start : start + block_chars])
        if len(pieces) > 1 and start + block_chars < len(text):
            pieces.pop()
        for piece in pieces:
            spans.append((start, start + len(piece)))
            start += len(piece)
    return spans


def _stop_counting_early(count: Callable[[str], int], limit_tokens: int) -> Callable[[str], int]:
    """Return a faster ``count``: it stops counting a long piece when the piece is over the limit.

    The last pieces are cached, since the splitter asks for some of them again and again.
    """
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

    ``sections`` returns the sections of a text, which are cut by themselves. ``clean`` turns a stretch into the
    string that the model reads. With ``trim`` no window has the white space between windows. A section that fits is
    one window, and is tokenized once, together with the sections of the other texts.
    """
    parts = [(number, section) for number, text in enumerate(texts) for section in sections(text)]
    limit_tokens = coder.limit_tokens
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
            windows[number] += _cut_pieces(texts[number], section, coder, clean, trim)
    return windows


def _cut_pieces(text: str, section: Section, coder: Coder, clean: Callable[[str], str], trim: bool) -> list[Window]:
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
            pieces += _halve_if_long(text, Window(start, end, code), coder, clean)
    several = sum(piece.encoded is not None for piece in pieces) > 1
    return [replace(piece, part=True) for piece in pieces] if several else pieces


def _halve_if_long(text: str, window: Window, coder: Coder, clean: Callable[[str], str]) -> list[Window]:
    """Return the window, or its halves if it is over the limit. A single character is never cut.

    This can happen since some tokenizers make more tokens of a string than of its parts.
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
        for piece in _halve_if_long(text, Window(start, end, code), coder, clean)
    ]


@dataclass(frozen=True, slots=True)
class Places:
    """The places of the tokens of a window, without special tokens.

    Token number i is at ``[starts[i], ends[i])`` in the text, in characters. ``inside[i]`` is 1 if it continues the
    word of the token before. ``leading`` is the number of special tokens before the others in the window, ``first``
    the number of the text's tokens before the window.
    """

    leading: int
    starts: array[int]
    ends: array[int]
    inside: array[int]
    first: int = 0

    def __len__(self) -> int:
        return len(self.starts)


# Windows overlap by a quarter of their tokens or words, so that each token has an eighth of a window on both sides.
_OVERLAP = 4
# A text is tokenized in blocks of at most this many characters: a tokenizer's output takes a hundred times their
# memory.
BLOCK_CHARS = 500_000


def cut_overlapping(texts: Sequence[str], coder: Coder, overlap_tokens: int = 0) -> list[list[Window]]:
    """Return the windows of each text, in order. The windows of a text overlap, if possible by ``overlap_tokens``.

    If ``coder`` does not return places of tokens, windows do not overlap.
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
            windows.append(_windows(text, _join(pieces), coder.limit_tokens, overlap_tokens))
    return windows


def stretches(tokens: int, room: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Return stretches ``[first, end)`` of a text's tokens, at most ``room`` long, evenly spread over the text.

    They overlap by at least a quarter, or by ``overlap`` if that is more, but need not overlap by more than half.
    """
    if tokens <= room:
        return [(0, tokens)]
    step = room - max(room // _OVERLAP, min(overlap, room // 2))
    further = -((room - tokens) // step)
    firsts = [number * (tokens - room) // further for number in range(further + 1)]
    return [(first, first + room) for first in firsts]


def deciding(windows: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.bool_]]:
    """Return for each window ``[first, end)`` a mask of the tokens that it decides. Each token is decided once.

    The window with the best context decides a token; of several, the first.
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
    """Yield stretches for the tokenizer, cut before white space if possible."""
    start = 0
    while len(text) - start > BLOCK_CHARS:
        end = start + BLOCK_CHARS
        while end > start + 1 and not (text[end].isspace() and not text[end - 1].isspace()):
            end -= 1
        end = end if end > start + 1 else start + BLOCK_CHARS
        yield start, end
        start = end
    yield start, len(text)


def _join(pieces: Sequence[tuple[int, Encoded, Places]]) -> Encoded:
    """Return a text's tokens from the tokens of its pieces. Each piece has its place in the text."""
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
        Window(places.starts[first], places.ends[end - 1], _take_stretch(encoded, places, first, end), part=True)
        for first, end in stretches(len(places), room, overlap_tokens)
    ]


def _take_stretch(encoded: Encoded, places: Places, first: int, end: int) -> Encoded:
    """Return some tokens of a text between its special tokens."""
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
    """The words of a text: word i is at ``[starts[i], ends[i])``, in characters, and has ``tokens[i]`` tokens."""

    starts: Sequence[int]
    ends: Sequence[int]
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class WordReader:
    """The part of a backend that cuts texts at words. Safe to call from any thread.

    A window has at most ``most_words`` words, and ``limit_tokens`` tokens with the ``overhead`` of prompt and special
    tokens. An entity has at most ``widest`` words.
    """

    words: Callable[[str], Words]
    most_words: int
    limit_tokens: int
    overhead: int
    widest: int


def cut_at_words(texts: Sequence[str], reader: WordReader) -> list[list[Window]]:
    """Return the windows of each text, in order. The windows of a text overlap by about a quarter of their words."""
    return [_windows_of_words(text, reader, reader.words(text)) for text in texts]


def decided(
    windows: Sequence[Window], spans_by_window: Sequence[Iterable[tuple[str, int, int, float]]]
) -> list[tuple[str, int, int, float]]:
    """Return spans of a text that do not overlap, from the spans of its windows at places in the text.

    A span counts if it comes from the window with the best context for it. If spans overlap, the span with the
    highest score is kept, as within a window.
    """
    kept: list[tuple[str, int, int, float]] = []
    taken = bytearray(windows[-1].end if windows else 0)
    of_text = [
        span
        for number, spans in enumerate(spans_by_window)
        for span in spans
        if len(windows) == 1 or _find_owner(windows, span[1], span[2]) == number
    ]
    for span in sorted(of_text, key=lambda found_span: -found_span[3]):
        _, start, end, _ = span
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            kept.append(span)
    return kept


def _find_owner(windows: Sequence[Window], start: int, end: int) -> int:
    """Return the number of the window with the best context for a span; of several, the first."""

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
    """Return stretches ``[first, end)`` of words with these numbers of tokens, within both limits if possible.

    A word with more tokens than ``room`` is a stretch by itself. Stretches overlap by a quarter of their words, or by
    ``widest`` words if that is more, but at most by half. The last stretch is as long as the limits allow.
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
