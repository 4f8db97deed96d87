"""Where a text's paragraphs and list items begin, so that a translation keeps the text's shape.

Plain text has no markup, so these are the habits of people who write it: a blank line ends a paragraph, a
line that starts with a bullet or a number is an item, an indented line stands alone unless it continues an
item, and any other newline is only where a line was full.
"""

from __future__ import annotations

import re

from tasks.windows import Section

# The separators include no-break spaces, which French typography puts after a dash, and the dot operator,
# which catalogues of translations use to make such a space visible.
_BULLET = re.compile(r"(?:[-*+•‣◦▪■●○·–—]|\(?\d{1,3}[.)]|\(?[a-zA-Z]\))[ \t\u00a0\u202f⋅]+")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_NEWLINE = re.compile(r"\r\n|\r|\n")


def unwrapped(paragraph: str) -> str:
    """The paragraph on one line: what a model trained on sentences expects."""
    first, *rest = _NEWLINE.split(paragraph)
    if not rest:
        return paragraph
    *middle, last = rest
    return " ".join([first.rstrip(" \t"), *(line.strip(" \t") for line in middle), last.lstrip(" \t")])


def has_words(text: str) -> bool:
    """Whether there is anything to translate: a rule of dashes or a line of dots has nothing."""
    return any(character.isalnum() for character in text)


def _continues_item(last: str, line: str, indent: int, hanging: int) -> bool:
    """Whether a line without a bullet belongs to the list item above it.

    Under the item's text it does. At the margin it does too (some catalogues strip the indentation of wrapped
    items), unless the item has ended with a full stop and a new sentence starts.
    """
    if indent == 0:
        return not (last in ".!?;:" and line[:1].isupper())
    return indent == hanging


def paragraphs(text: str) -> list[Section]:
    """The stretches of ``text`` to translate, in order and without the white space and bullets between them.

    A stretch without a letter or digit is ``verbatim``. What lies between the stretches is the text's shape.
    """
    sections: list[Section] = []
    start: int | None = None  # of the open paragraph
    end = 0  # of its last line, without the newline
    hanging = -1  # column at which the open list item's text begins; -1 outside a list
    for match in _LINE.finditer(text):
        line = match.group().rstrip()
        indent = len(line) - len(line.lstrip())
        bullet = _BULLET.match(line, indent)
        begins = bullet is not None or not (
            indent == 0 if hanging < 0 else _continues_item(text[max(0, end - 1) : end], line, indent, hanging)
        )
        if start is not None and (not line or begins):
            sections.append(Section(start, end, verbatim=not has_words(text[start:end])))
            start = None
        if not line:
            hanging = -1
            continue
        if start is None:
            hanging = bullet.end() if bullet else -1
            start = match.start() + (bullet.end() if bullet else indent)
        end = match.start() + len(line)
    if start is not None:
        sections.append(Section(start, end, verbatim=not has_words(text[start:end])))
    return [section for section in sections if section.start < section.end]
