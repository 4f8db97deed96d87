"""The sentences of a text, each with its place, in any script whose sentences end with a mark.

The marks are those of Unicode's sentence boundaries (UAX #29: ATerm and STerm, without the rarest scripts). A full
stop ends no sentence before a small letter, after an initial, or after a word such as "Dr". Thai and other scripts
without such marks have one sentence in a paragraph.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import starmap
from operator import itemgetter
from typing import Protocol

from docmill.tasks.windows.paragraphs import has_words, not_prose, paragraphs
from docmill.tasks.windows.windows import Section, trimmed

_CLOSING = r"[\"'”’»›)\]}）】」』》〉*_`]*"
# The marks of scripts without spaces end a sentence by themselves, the others before white space.
_UNSPACED, _SPACED = "。！？｡．", ".!?…‽؟۔।॥։።፧፨။៕᠃"
# It begins with a set of characters, which is searched for faster than one of two.
_END = re.compile(
    rf"[{_UNSPACED}{_SPACED}](?:(?<=[{_UNSPACED}])[{_UNSPACED}]*{_CLOSING}|(?<=[{_SPACED}])[{_SPACED}]*{_CLOSING}(?=\s))"
)
_UNSPACED_END = re.compile(rf"[{_UNSPACED}]+{_CLOSING}\Z")
_OPENING = re.compile(r"[\s\"'“‘«‹(\[{¿¡*_`]*")
_BREAK = re.compile(r"\s*(?:(?<=[\r\n])[ \t]*(?:>[ \t]?)+[ \t]*)?")
_LAST_WORD = re.compile(r"[^\W\d_]+(?:\.[^\W\d_]+)*\Z")
_LONGEST_WORD = 12
# Words that a name, a number or an example follows.
_SHORTENED = re.compile(
    "mr|mrs|ms|dr|prof|st|rec|rev|hon|gen|col|lt|sgt|capt|no|nr|figs?|eq|sec|ch|vol|vs|cf|approx|ca|al|e[.]g|i[.]e|viz|resp|"
    "hr|fr|mme|mlle|sra?|srta|dra|ud|núm|pág|art|bzw|z[.]b|d[.]h|u[.]a|vgl|bspw|dipl|ing",
    re.IGNORECASE,
)


class _Stretch(Protocol):
    @property
    def start(self) -> int: ...


def sentences(text: str) -> list[Section]:
    """Return the sentences of ``text``, in order and without the white space and markup between them.

    Headings, list items and cells are sentences of their own; code, rules and link definitions are left out.
    """
    found: list[Section] = []
    for paragraph in paragraphs(text):
        if paragraph.verbatim:
            continue
        start = paragraph.start
        for end in (*_ends(text, paragraph), paragraph.end):
            piece = text[start:end].strip()
            if piece:
                first = text.index(piece[0], start)
                found.append(Section(first, first + len(piece)))
            start = end
    return found


def translated_sentences(text: str) -> list[Section]:
    """Return the stretches of ``text`` to translate, as `paragraphs` does, with each sentence by itself.

    No sentence ends within inline code. Quote signs at the start of a line belong to no sentence.
    """
    found: list[Section] = []
    for paragraph in paragraphs(text):
        if paragraph.verbatim:
            found.append(paragraph)
            continue
        kept = list(not_prose(text, paragraph.start, paragraph.end))
        ends = (end for end in _ends(text, paragraph) if not _within(kept, end))
        breaks = ((end, _behind_break(text, end)) for end in ends)
        capital = [(end, start) for end, start in breaks if not text[start : start + 1].islower()]
        for start, end in _between(text, paragraph, capital):
            found.append(Section(start, end, verbatim=not has_words(text[start:end])))
    return found


def between_sentences(gap: str, before: str) -> str:
    """Return the white space after the translated sentence ``before``, in place of the original ``gap``.

    Scripts that end sentences with a mark such as 。 have no spaces between them. Other white space is kept.
    """
    if gap not in {"", " "}:
        return gap
    return "" if not before or _UNSPACED_END.search(before) else " "


def holding(found: Sequence[_Stretch], section: Section) -> slice:
    """Return the slice of the stretches, which are in order, that begin in a section."""
    first, end = (bisect_left(found, place, key=lambda one: one.start) for place in (section.start, section.end))
    return slice(first, end)


def _ends(text: str, paragraph: Section) -> list[int]:
    """Return the places behind the marks that end a sentence."""
    marks = _END.finditer(text, paragraph.start, paragraph.end)
    return [mark.end() for mark in marks if _ends_sentence(text, mark)]


def _between(text: str, paragraph: Section, breaks: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a paragraph between its breaks, without white space at their ends."""
    starts, ends = [paragraph.start, *(end for _, end in breaks)], [*(start for start, _ in breaks), paragraph.end]
    for start, end in starmap(partial(trimmed, text), zip(starts, ends, strict=True)):
        if start < end:
            yield start, end


def _behind_break(text: str, end: int) -> int:
    """Return where the sentence after an end begins: behind white space, and the quote signs of a new line."""
    gap = _BREAK.match(text, end)
    assert gap is not None
    return gap.end()


def _within(stretches: Sequence[tuple[int, int]], place: int) -> bool:
    """Return True if a place lies inside one of the stretches, which are in order."""
    before = bisect_left(stretches, place, key=itemgetter(0))
    return before > 0 and place < stretches[before - 1][1]


def _ends_sentence(text: str, mark: re.Match[str]) -> bool:
    opened = _OPENING.match(text, mark.end())
    assert opened is not None
    if text[opened.end() : opened.end() + 1].islower():
        return False
    if mark[0] != ".":
        return True
    word = _LAST_WORD.search(text[max(0, mark.start() - _LONGEST_WORD) : mark.start()])
    is_initial = word is not None and len(word[0]) == 1 and word[0].isupper()
    return word is None or not (is_initial or _SHORTENED.fullmatch(word[0]))
