"""The sentences of a text, each with its place, in any script whose sentences end with a mark.

The marks are those of Unicode's sentence boundaries (UAX #29: ATerm and STerm, without the rarest scripts). A full
stop ends no sentence before a small letter, after an initial, or after a word such as "Dr". Thai and other scripts
without such marks have one sentence in a paragraph.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

from tasks.windows.paragraphs import paragraphs
from tasks.windows.windows import Section, trimmed

_CLOSING = r"[\"'”’»›)\]}）】」』》〉*_`]*"
# The marks of scripts without spaces end a sentence by themselves, the others before white space.
_END = re.compile(rf"[。！？｡．]+{_CLOSING}|[.!?…‽؟۔।॥։።፧፨။៕᠃]+{_CLOSING}(?=\s)")
_OPENING = re.compile(r"[\s\"'“‘«‹(\[{¿¡*_`]*")
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
        if not paragraph.verbatim:
            found += _of_paragraph(text, paragraph)
    return found


def holding(found: Sequence[_Stretch], section: Section) -> slice:
    """Return the slice of the stretches, which are in order, that begin in a section."""
    first, end = (bisect_left(found, place, key=lambda one: one.start) for place in (section.start, section.end))
    return slice(first, end)


def _of_paragraph(text: str, paragraph: Section) -> list[Section]:
    ends = [mark.end() for mark in _END.finditer(text, paragraph.start, paragraph.end) if _ends_sentence(text, mark)]
    starts = [paragraph.start, *ends]
    stretches = (trimmed(text, *pair) for pair in zip(starts, [*ends, paragraph.end], strict=True))
    return [Section(start, end) for start, end in stretches if start < end]


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
