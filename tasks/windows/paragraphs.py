"""The stretches of a text to translate, its paragraphs and sentences, so that a translation keeps the text's layout.

The rules for plain text follow common habits: a blank line ends a paragraph; a line that starts with a bullet or a
number is an item; each line of the form `Name: value` is a paragraph; so is an indented line unless it continues an
item; any other newline only wraps a paragraph. In Markdown, code, rules and link definitions are copied, and headings
and cells of tables are translated by themselves. markdown-it-py finds the blocks (CommonMark and GitHub's tables). A
text without Markdown's signs is not parsed.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING

from docmill.tasks.windows.windows import Section, Window, trimmed

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token


# The separators include no-break spaces, which follow a dash in French, and the dot operator, which makes such a
# space visible in catalogs of translations.
_BULLET = re.compile(
    r"(?:(?:[-*+•‣◦▪■●○·–—・→►▶➤✓✔✗✘☐☑☒]|\(?\d{1,3}[.)]|\d{1,3}(?:\.\d{1,3})+[.)]|\(?(?:[a-zA-Z]|[ivx]{2,4})\)|\[\^[^\]\s]+\]:)"
    r"[ \t\u00a0\u202f⋅]+(?:\[[ xX]\][ \t]+)?)++"  # an item may begin another
)
_QUOTE = re.compile(r"[ \t]*>[ \t]?")
_QUOTES = re.compile(r"[ \t]*(?:>[ \t]?)*[ \t]*")
_FIELD = re.compile(r"[^\W\d_][\w .-]{0,30}:[ \t]+\S")
_SIGNS_OF_FIELDS = (": ", ":\t")
_DEFINITION = re.compile(r":[ \t]+(?=\S)")
NEWLINE = re.compile(r"\r\n|\r|\n")
_NOT_PROSE = re.compile(
    r"(?<!`)(`++)[^`]++\1(?!`)|<?\b[a-z][a-z0-9+.-]{1,15}://[^\s<>]++>?|!\[[^\[\]]*+\]\([^()\s]*+\)", re.IGNORECASE
)
_SIGNS_OF_NO_PROSE = ("`", "://", "](")
_LONGEST_TERM = 60


def unwrapped(paragraph: str) -> str:
    """Return the paragraph on one line, as a model that was trained on sentences expects it."""
    first, *rest = NEWLINE.split(paragraph)
    if not rest:
        return paragraph
    *middle, last = (line[_QUOTES.match(line).end() :] for line in rest)  # type: ignore[union-attr]
    return " ".join([first.rstrip(" \t"), *(line.rstrip(" \t") for line in middle), last])


def has_words(text: str) -> bool:
    """Return False if there is nothing to translate, as in a rule of dashes, a URL or inline code."""
    if any(sign in text for sign in _SIGNS_OF_NO_PROSE):
        text = _NOT_PROSE.sub("", text)
    return any(map(str.isalnum, text))


def paragraphs(text: str) -> list[Section]:
    """Return the stretches of ``text`` to translate, in order, without the white space and markup between them.

    A stretch without words is ``verbatim``.
    """
    return _Scanner(text).scan()


def cells(text: str) -> list[Section]:
    """Return the cells of the tables in ``text``, in order."""
    scanner = _Scanner(text)
    return [cell for line in read_lines(text) if line.role is Role.ROW for cell in scanner.cells(line)]


class _Scanner:
    """One pass over the lines of a text, with the open paragraph."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sections: list[Section] = []
        self._start: int | None = None  # of the open paragraph
        self._end = 0  # of its last line, without the newline
        self._quotes = 0  # around its last line
        self._hanging = -1  # column at which the open list item's text begins; -1 outside a list

    def scan(self) -> list[Section]:
        lines = read_lines(self._text)
        fields = self._fields(lines)
        html = 0  # the end of the last HTML block
        for number, line in enumerate(lines):
            if line.role is Role.PROSE:
                self._add_prose(line, number in fields)
                continue
            self._close()
            if line.role is Role.HEADING:
                self._add(*heading(self._text, self._content(line), line.end))
            elif line.role is Role.ROW:
                self._sections += self.cells(line)
            elif line.role is Role.HTML and line.start >= html:
                html = next((each.start for each in lines[number:] if each.role is not Role.HTML), len(self._text))
                for stretch in between_tags(self._text, self._content(line), html):
                    self._add(*stretch)
        self._close()
        return self._sections

    def cells(self, line: Line) -> list[Section]:
        """Return the cells of a table's row."""
        stretches = between_bars(self._text, self._content(line), line.end)
        trims = [trimmed(self._text, *stretch) for stretch in stretches]
        return [self._section(start, end) for start, end in trims if start < end]

    def _add_prose(self, line: Line, is_field: bool) -> None:
        margin = self._skip_quote_signs(line) if line.quotes else line.start
        written = self._text[margin : line.end].rstrip()
        if not written:
            self._close()
            self._quotes, self._hanging = line.quotes, -1
            return
        indent = len(written) - len(written.lstrip())
        bullet = _BULLET.match(written, indent) or self._definition(written, indent)
        begins = bullet is not None or is_field or line.quotes != self._quotes or self._ends_with_break()
        if not begins:
            begins = indent > 0 if self._hanging < 0 else not self._continues_item(written[indent:], indent)
        if begins:
            self._close()
        self._quotes = line.quotes
        if self._start is None:
            self._hanging = bullet.end() if bullet else -1
            self._start = margin + (bullet.end() if bullet else indent)
        self._end = margin + len(written)

    def _continues_item(self, line: str, indent: int) -> bool:
        """Return True if a line without a bullet belongs to the list item above it.

        It belongs to the item if it has the indentation of the item's text. A line at the margin also does (some
        catalogs strip the indentation of wrapped items), unless the item ends a sentence and the line begins one.
        """
        if indent == 0:
            last = self._text[max(0, self._end - 1) : self._end]
            return not (last in ".!?;:" and line[:1].isupper())
        return indent == self._hanging

    def _ends_with_break(self) -> bool:
        """Return True if the last line ends with Markdown's line break: two spaces or a backslash."""
        if self._start is None:
            return False
        return self._text.startswith("  ", self._end) or self._text[self._end - 1] == "\\"

    def _definition(self, written: str, indent: int) -> re.Match[str] | None:
        """Return the colon that begins a definition below its term, a paragraph of one short line."""
        if self._start is None or self._end - self._start > _LONGEST_TERM or not written.startswith(":", indent):
            return None
        if "\n" in self._text[self._start : self._end]:
            return None
        return _DEFINITION.match(written, indent)

    def _fields(self, lines: list[Line]) -> set[int]:
        """Return the numbers of the lines `Name: value` that follow one another."""
        if not any(sign in self._text for sign in _SIGNS_OF_FIELDS):
            return set()
        fields = {
            number
            for number, line in enumerate(lines)
            if line.role is Role.PROSE and _FIELD.match(self._text, self._content(line), line.end)
        }
        return {number for number in fields if number - 1 in fields or number + 1 in fields}

    def _content(self, line: Line) -> int:
        """Return the start of the line's content, after quote signs, white space and bullets."""
        start = self._skip_quote_signs(line)
        start += len(self._text[start : line.end]) - len(self._text[start : line.end].lstrip())
        while line.role is not Role.PROSE and (bullet := _BULLET.match(self._text, start, line.end)):
            start = bullet.end()
        return start

    def _skip_quote_signs(self, line: Line) -> int:
        """Return the place after the line's quote signs."""
        start = line.start
        for _ in range(line.quotes):
            if not (sign := _QUOTE.match(self._text, start, line.end)):
                break
            start = sign.end()
        return start

    def _close(self) -> None:
        """End the open paragraph."""
        if self._start is not None:
            broken = self._text[self._start : self._end].endswith("\\")
            self._add(self._start, self._end - broken)
            self._start = None

    def _add(self, start: int, end: int) -> None:
        start, end = trimmed(self._text, start, end)
        if start < end:
            self._sections.append(self._section(start, end))

    def _section(self, start: int, end: int) -> Section:
        return Section(start, end, verbatim=not has_words(self._text[start:end]))


_LINE = re.compile(r"([^\r\n]*)(?:\r\n|\r|\n|\Z)")
_ITEM = r"(?:(?:[-*+]|\d{1,9}[.)])[ \t]++|>[ \t]*+)"  # the start of a list's item, or of a quotation
# Possessive, so that a line of a million spaces is read once.
_SIGNS = re.compile(
    rf"^(?:[ \t]*+>|[ ]{{4}}|\t|[^\r\n|]*+\||[ \t]*+(?:{_ITEM})*+"
    r"(?:```|~~~|\#{1,6}+(?:[ \t]|$)|</?[a-zA-Z!]|(?:=++|-{2,}+)[ \t]*+\r?$|\[[^\]\r\n]++\]:)"
    rf"|[ \t]*+(?:{_ITEM}){{2}})",
    re.MULTILINE,
)
_FRONT_MATTER = re.compile(
    r"---[ \t]*\r?\n(?:[ \t]*(?:[\w-]+:[^\r\n]*|-[ \t][^\r\n]*|\#[^\r\n]*)?\r?\n)*?(?:---|\.\.\.)[ \t]*(?=\r?\n|\Z)"
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
# A comment or script without an end includes the rest of the block.
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
    """The line ``[start, end)`` without its break. ``quotes`` is the number of block quotes around it."""

    start: int
    end: int
    role: Role = Role.PROSE
    quotes: int = 0


def read_lines(text: str) -> list[Line]:
    """Return the lines of ``text`` with their roles."""
    lines = [Line(*match.span(1)) for match in _LINE.finditer(text)]
    if has_signs(text):
        _mark(text, lines)
    return lines


def has_signs(text: str) -> bool:
    """Return True if a line of the text begins with a sign of Markdown or of code."""
    return _SIGNS.search(text) is not None


def between_bars(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches between the unescaped bars of a table's row, with white space."""
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
    """Yield the stretches of an HTML block outside tags, comments, scripts and preformatted text."""
    begins = start
    for tag in _TAG.finditer(text, start, end):
        if (tag[2] or "").lower() not in _INLINE_TAGS:
            yield begins, tag.start()
            begins = tag.end()
    yield begins, end


def _mark(text: str, lines: list[Line]) -> None:
    """Give the lines their roles."""
    first = 0
    if front := _FRONT_MATTER.match(text):
        first = sum(line.start < front.end() for line in lines)
        _assign(lines, 0, first, Role.MARKUP)
    tokens = _parser().parse(text[lines[first].start :] if first < len(lines) else "")
    is_markdown = any(token.type in ("fence", "table_open") or token.markup.startswith("#") for token in tokens)
    covered: set[int] = set()
    for token in tokens:
        if token.map is None:
            continue
        begin, end = (first + line for line in token.map)
        covered.update(range(begin, end) if token.type not in _CONTAINERS else ())
        if token.type == "code_block":
            if is_markdown or _is_code(text, lines[begin:end]):
                _assign(lines, begin, end, Role.MARKUP)
        else:
            _mark_block(lines, token, begin, end)
    for number in range(first, len(lines)):
        line = lines[number]
        # The parser removes definitions of links without a token.
        if number not in covered and text[line.start : line.end].strip(" \t>"):
            line.role = Role.MARKUP


_CONTAINERS = frozenset({"bullet_list_open", "ordered_list_open", "list_item_open", "blockquote_open"})


def _mark_block(lines: list[Line], token: Token, begin: int, end: int) -> None:
    match token.type:
        case "blockquote_open":
            for line in lines[begin:end]:
                line.quotes += 1
        case "fence" | "hr" | "table_open":
            _assign(lines, begin, end, Role.MARKUP)
        case "html_block":
            _assign(lines, begin, end, Role.HTML)
        case "heading_open" if token.markup.startswith("#"):
            _assign(lines, begin, end, Role.HEADING)
        case "heading_open":
            _assign(lines, end - 1, end, Role.MARKUP)
        case "tr_open":
            _assign(lines, begin, end, Role.ROW)


def _assign(lines: list[Line], begin: int, end: int, role: Role) -> None:
    for line in lines[begin:end]:
        line.role = role


def _is_code(text: str, block: list[Line]) -> bool:
    """Return True if at least half of the lines in an indented block look like code."""
    written = [line for line in block if text[line.start : line.end].strip()]
    signs = sum(_CODE_SIGN.search(text[line.start : line.end]) is not None for line in written)
    return 2 * signs >= len(written)


@cache
def _parser() -> MarkdownIt:
    """Return a parser of blocks. The model sees the markup inside a paragraph."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


CLOSING = r"[\"'”’»›)\]}）】」』》〉*_`]*"
# Marks of scripts without spaces end a sentence by themselves; the others end it before white space.
_UNSPACED, _SPACED = "。！？｡．", ".!?…‽؟۔।॥։።፧፨။៕᠃"
# It begins with one set of characters, which is faster than an alternative of two sets.
_END = re.compile(
    rf"[{_UNSPACED}{_SPACED}](?:(?<=[{_UNSPACED}])[{_UNSPACED}]*{CLOSING}"
    rf"|(?<=[{_SPACED}])(?<![{_SPACED}]{{2}})[{_SPACED}]*{CLOSING}(?=\s))"
)
_UNSPACED_END = re.compile(rf"[{_UNSPACED}]+{CLOSING}\Z")
_OPENING = re.compile(r"[\s\"'“‘«‹(\[{¿¡*_`]*")
_BREAK = re.compile(r"\s*(?:(?<=[\r\n])[ \t]*(?:>[ \t]?)+[ \t]*)?")
_LAST_WORD = re.compile(r"[^\W\d_]+(?:\.[^\W\d_]+)*\Z")
_LONGEST_WORD = 12
# Abbreviations before a name, a number or an example.
_SHORTENED = re.compile(
    "mr|mrs|ms|dr|prof|st|rec|rev|hon|gen|col|lt|sgt|capt|no|nr|figs?|eq|sec|ch|vol|vs|cf|approx|ca|al|e[.]g|i[.]e|viz|resp|"
    "hr|fr|mme|mlle|sra?|srta|dra|ud|núm|pág|art|bzw|z[.]b|d[.]h|u[.]a|vgl|bspw|dipl|ing",
    re.IGNORECASE,
)


def sentences(text: str) -> list[Section]:
    """Return the sentences of ``text``, in order, without the white space and markup between them.

    Headings, list items and cells are sentences. Code, rules and link definitions are left out.
    """
    stretches: list[Section] = []
    for paragraph in paragraphs(text):
        if paragraph.verbatim:
            continue
        start = paragraph.start
        for end in (*_ends(text, paragraph), paragraph.end):
            first, last = trimmed(text, start, end)
            if first < last:
                stretches.append(Section(first, last))
            start = end
    return stretches


def translated_sentences(text: str) -> list[Section]:
    """Return the stretches of ``text`` to translate, as `paragraphs` does, but sentence by sentence.

    No sentence ends within inline code. Quote signs at the start of a line belong to no sentence.
    """
    stretches: list[Section] = []
    for paragraph in paragraphs(text):
        if paragraph.verbatim:
            stretches.append(paragraph)
            continue
        kept = [match.span() for match in _NOT_PROSE.finditer(text, paragraph.start, paragraph.end)]
        start = paragraph.start
        for end in (*_ends(text, paragraph), paragraph.end):
            following = _skip_break(text, end)
            goes_on = _is_within(kept, end) or text[following : following + 1].islower()
            if goes_on and end < paragraph.end:
                continue
            first, last = trimmed(text, start, end)
            if first < last:
                stretches.append(Section(first, last, verbatim=not has_words(text[first:last])))
            start = following
    return stretches


def between_sentences(gap: str, before: str) -> str:
    """Return the white space after the translated sentence ``before``, in place of the original ``gap``.

    There is no space after a mark such as 。. White space other than a space is kept.
    """
    if gap not in {"", " "}:
        return gap
    return "" if not before or _UNSPACED_END.search(before) else " "


def holding(stretches: Sequence[Section] | Sequence[Window], section: Section) -> slice:
    """Return the slice of the ordered stretches that begin in a section."""
    first, end = (
        bisect_left(stretches, place, key=lambda stretch: stretch.start) for place in (section.start, section.end)
    )
    return slice(first, end)


def _ends(text: str, paragraph: Section) -> list[int]:
    """Return the places after the marks that end a sentence."""
    marks = _END.finditer(text, paragraph.start, paragraph.end)
    return [mark.end() for mark in marks if _ends_sentence(text, mark)]


def _skip_break(text: str, end: int) -> int:
    """Return the start of the next sentence, after white space and the quote signs of a new line."""
    gap = _BREAK.match(text, end)
    assert gap is not None
    return gap.end()


def _is_within(stretches: Sequence[tuple[int, int]], place: int) -> bool:
    """Return True if a place is inside one of the ordered stretches."""
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
