"""Lines of a Markdown text by their role: prose to translate, markup to copy, headings, and rows of tables.

The blocks are found by markdown-it-py (CommonMark and GitHub's tables). Paragraphs and lists stay with
`tasks.windows.paragraphs`, which also reads plain text; a text without Markdown's signs is not parsed at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_LINE = re.compile(r"([^\r\n]*)(?:\r\n|\r|\n|\Z)")
_ITEM = r"(?:(?:[-*+]|\d{1,9}[.)])[ \t]++|>[ \t]*+)"  # what begins an item of a list, or a quotation
# Possessive, so that a line of a million spaces is read once.
_SIGNS = re.compile(
    rf"^(?:[ \t]*+>|[ ]{{4}}|\t|[^\r\n|]*+\||[ \t]*+(?:{_ITEM})*+"
    r"(?:```|~~~|\#{1,6}+(?:[ \t]|$)|</?[a-zA-Z!]|(?:=++|-{2,}+)[ \t]*+$|\[[^\]\r\n]++\]:)"
    rf"|[ \t]*+(?:{_ITEM}){{2}})",
    re.MULTILINE,
)
_FRONT_MATTER = re.compile(
    r"---[ \t]*\r?\n(?:[ \t]*(?:[\w-]+:.*|-[ \t].*|\#.*)?\r?\n)*?(?:---|\.\.\.)[ \t]*(?=\r?\n|\Z)"
)
_HEADING = re.compile(r"[ \t]*#{1,6}(?:[ \t]+|$)")
_CODE_SIGN = re.compile(r"[{};=<>|\\$`]|\w\(|\)\s*$|^\s*(?:[$#%]\s|>>>|//|--?\w)|\w/\w+/|\w::\w|&&|\./\w")
# Tags inside a sentence; any other tag ends one.
_INLINE_TAGS = frozenset(
    {
        "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "dfn", "em", "i", "kbd", "mark", "q", "s", "samp",
        "small", "span", "strong", "sub", "sup", "time", "u", "var", "wbr",
    }
)  # fmt: skip
# A comment or script that never ends takes the rest of the block.
_TAG = re.compile(
    r"<!--(?:.*?-->|.*\Z)|<(script|style|pre)\b(?:.*?</\1\s*>|.*\Z)|</?([a-zA-Z][\w-]*)[^<>]*>|<[!?][^<>]*>",
    re.DOTALL | re.IGNORECASE,
)


class Role(Enum):
    PROSE = auto()
    MARKUP = auto()
    HEADING = auto()
    ROW = auto()  # of a table
    HTML = auto()


@dataclass(slots=True)
class Line:
    """The line ``[start, end)`` without its break; ``quotes`` counts the block quotes that hold it."""

    start: int
    end: int
    role: Role = Role.PROSE
    quotes: int = 0


def lines(text: str) -> list[Line]:
    """Return the lines of ``text`` with their roles."""
    found = [Line(*match.span(1)) for match in _LINE.finditer(text)]
    if has_signs(text):
        _mark(text, found)
    return found


def has_signs(text: str) -> bool:
    """Return True if a line of the text begins with a sign of Markdown or of code."""
    return _SIGNS.search(text) is not None


def cells(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches between the unescaped bars of a table's row, with their white space."""
    begins = start
    for place in range(start, end):
        if text[place] == "|" and text[place - 1 : place] != "\\":
            yield begins, place
            begins = place + 1
    yield begins, end


def heading(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the stretch of a heading's words, without the number signs around them."""
    if begins := _HEADING.match(text, start, end):
        start = begins.end()
    words = text[start:end].rstrip(" \t")
    unmarked = words.rstrip("#")
    return start, start + len(unmarked if not unmarked or unmarked[-1] in " \t" else words)


def between_tags(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of an HTML block that no tag, comment, script or preformatted text holds."""
    begins = start
    for tag in _TAG.finditer(text, start, end):
        if (tag[2] or "").lower() not in _INLINE_TAGS:
            yield begins, tag.start()
            begins = tag.end()
    yield begins, end


def _mark(text: str, found: list[Line]) -> None:
    """Give the lines their roles."""
    first = 0
    if front := _FRONT_MATTER.match(text):
        first = sum(line.start < front.end() for line in found)
        _assign(found, 0, first, Role.MARKUP)
    tokens = _parser().parse(text[found[first].start :] if first < len(found) else "")
    is_markdown = any(token.type in ("fence", "table_open") or token.markup.startswith("#") for token in tokens)
    covered: set[int] = set()
    for token in tokens:
        if token.map is None:
            continue
        begin, end = (first + line for line in token.map)
        covered.update(range(begin, end) if token.type not in _CONTAINERS else ())
        if token.type == "code_block":
            if is_markdown or _is_code(text, found[begin:end]):
                _assign(found, begin, end, Role.MARKUP)
        else:
            _mark_block(found, token, begin, end)
    for number in range(first, len(found)):
        line = found[number]
        # The parser takes definitions of links away without a token.
        if number not in covered and text[line.start : line.end].strip(" \t>"):
            line.role = Role.MARKUP


_CONTAINERS = frozenset({"bullet_list_open", "ordered_list_open", "list_item_open", "blockquote_open"})


def _mark_block(found: list[Line], token: Token, begin: int, end: int) -> None:
    match token.type:
        case "blockquote_open":
            for line in found[begin:end]:
                line.quotes += 1
        case "fence" | "hr":
            _assign(found, begin, end, Role.MARKUP)
        case "html_block":
            _assign(found, begin, end, Role.HTML)
        case "heading_open" if token.markup.startswith("#"):
            _assign(found, begin, end, Role.HEADING)
        case "heading_open":
            _assign(found, end - 1, end, Role.MARKUP)
        case "table_open":
            _assign(found, begin, end, Role.MARKUP)
        case "tr_open":
            _assign(found, begin, end, Role.ROW)


def _assign(found: list[Line], begin: int, end: int, role: Role) -> None:
    for line in found[begin:end]:
        line.role = role


def _is_code(text: str, block: list[Line]) -> bool:
    """Return whether at least half of an indented block's lines look like code and not like indented prose."""
    written = [line for line in block if text[line.start : line.end].strip()]
    signs = sum(_CODE_SIGN.search(text[line.start : line.end]) is not None for line in written)
    return 2 * signs >= len(written)


@cache
def _parser() -> MarkdownIt:
    """Return a parser of blocks. Markup inside a paragraph is left to the model."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser
