"""Long texts in pieces that fit the model, each with its place in the text.

Everything is counted with the model's own tokenizer, on the very string that the model will read, so that a
window that was cut to fit does fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from semantic_text_splitter import TextSplitter

from docmill.tasks.windows.places import Places

# A text with this many characters for each token of the limit is not tokenised to learn that it must be cut.
LONG_CHARS_PER_TOKEN = 64
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


class Coder(Protocol):
    """The part of a backend that cutting needs: safe to call from any thread."""

    @property
    def limit_tokens(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> list[Encoded]: ...


@dataclass(frozen=True)
class LanguageCoders:
    """The coders of a model that must be told each text's language.

    ``coder`` takes one of ``languages``, which are plain codes; None are all that have an English name.
    """

    coder: Callable[[str], Coder]
    languages: frozenset[str] | None = None


def whole(text: str) -> list[Section]:
    return [Section(0, len(text))]


def as_it_is(text: str) -> str:
    return text


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The stretch without white space at its ends."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, max(start, start + len(piece.strip()))


def split(text: str, count: Callable[[str], int], limit_tokens: int) -> list[tuple[int, int]]:
    """Stretches of ``text`` within the limit, cut at paragraph, sentence, word or, last, character borders.

    Their concatenation is the text. The splitter looks ahead at each cut, to the end of what it was given; so it
    is given blocks, and the last piece of a block, which may be short only because the block ended, begins the
    next block. No stretch is longer than a block, however few its tokens are.
    """
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
    clean: Callable[[str], str] = as_it_is,
    trim: bool = False,
) -> list[list[Window]]:
    """The windows of each text, in order.

    ``sections`` says where windows must be cut; ``clean`` turns a stretch into what the model reads; with
    ``trim`` the white space between windows belongs to none of them. A section that fits is one window and is
    tokenised once, together with those of the other texts.
    """
    parts = [(number, section) for number, text in enumerate(texts) for section in sections(text)]
    limit_tokens = coder.limit_tokens
    # A section this long is not tokenised only to learn that it must be cut.
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
    """The windows of a section that is over the limit."""

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
    """The window, or its halves where the splitter's count and the whole's do not agree.

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
