"""The stretches of a text to translate, so that a translation keeps the text's shape.

Plain text has no markup, so its rules are the habits of people who write it: a blank line ends a paragraph; a line
that starts with a bullet or a number is an item; lines of the form `Name: value` stand alone; an indented line stands
alone unless it continues an item; any other newline is only where a line was full. In Markdown
(`tasks.windows.markdown`) code, rules and link definitions are copied, and headings and the cells of tables are
translated by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from docmill.tasks.windows import markdown
from docmill.tasks.windows.markdown import Line, Role
from docmill.tasks.windows.windows import Section, trimmed

# The separators include no-break spaces, which French typography puts after a dash, and the dot operator,
# which catalogues of translations use to make such a space visible.
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
    """Return the paragraph on one line, which is what a model trained on sentences expects."""
    first, *rest = NEWLINE.split(paragraph)
    if not rest:
        return paragraph
    *middle, last = (line[_QUOTES.match(line).end() :] for line in rest)  # type: ignore[union-attr]
    return " ".join([first.rstrip(" \t"), *(line.rstrip(" \t") for line in middle), last])


def has_words(text: str) -> bool:
    """Return whether there is anything to translate: a rule of dashes, a URL or a line of code has nothing."""
    if any(sign in text for sign in _SIGNS_OF_NO_PROSE):
        text = _NOT_PROSE.sub("", text)
    return any(map(str.isalnum, text))


def not_prose(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the places of inline code, URLs and images in a stretch of ``text``."""
    for match in _NOT_PROSE.finditer(text, start, end):
        yield match.span()


def paragraphs(text: str) -> list[Section]:
    """Return the stretches of ``text`` to translate, in order and without the white space and markup between them.

    A stretch without words is ``verbatim``. What lies between the stretches is the text's shape.
    """
    return _Scanner(text).scan()


def cells(text: str) -> list[Section]:
    """Return the cells of the tables in ``text``, in order."""
    scanner = _Scanner(text)
    return [cell for line in markdown.lines(text) if line.role is Role.ROW for cell in scanner.cells(line)]


class _Scanner:
    """One pass over the lines of a text; holds the paragraph that is open."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sections: list[Section] = []
        self._start: int | None = None  # of the open paragraph
        self._end = 0  # of its last line, without the newline
        self._quotes = 0  # around its last line
        self._hanging = -1  # column at which the open list item's text begins; -1 outside a list

    def scan(self) -> list[Section]:
        lines = markdown.lines(self._text)
        fields = self._fields(lines)
        html = 0  # end of the HTML block that has been taken
        for number, line in enumerate(lines):
            if line.role is Role.PROSE:
                self._prose(line, number in fields)
                continue
            self._close()
            if line.role is Role.HEADING:
                self._add(*markdown.heading(self._text, self._content(line), line.end))
            elif line.role is Role.ROW:
                self._sections += self.cells(line)
            elif line.role is Role.HTML and line.start >= html:
                html = next((each.start for each in lines[number:] if each.role is not Role.HTML), len(self._text))
                for stretch in markdown.between_tags(self._text, self._content(line), html):
                    self._add(*stretch)
        self._close()
        return self._sections

    def cells(self, line: Line) -> list[Section]:
        """Return the cells of a table's row."""
        stretches = markdown.cells(self._text, self._content(line), line.end)
        trims = [trimmed(self._text, *stretch) for stretch in stretches]
        return [self._section(start, end) for start, end in trims if start < end]

    def _prose(self, line: Line, is_field: bool) -> None:
        margin = self._quoted(line) if line.quotes else line.start
        written = self._text[margin : line.end].rstrip()
        if not written:
            self._close()
            self._quotes, self._hanging = line.quotes, -1
            return
        indent = len(written) - len(written.lstrip())
        bullet = _BULLET.match(written, indent) or self._definition(written, indent)
        begins = bullet is not None or is_field or line.quotes != self._quotes or self._broken()
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
        """Return whether a line without a bullet belongs to the list item above it.

        Under the item's text it does. At the margin it does too (some catalogues strip the indentation of wrapped
        items), unless the item has ended with a full stop and a new sentence starts.
        """
        if indent == 0:
            last = self._text[max(0, self._end - 1) : self._end]
            return not (last in ".!?;:" and line[:1].isupper())
        return indent == self._hanging

    def _broken(self) -> bool:
        """Return whether the last line ends with Markdown's sign of a line break: two spaces or a backslash."""
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
        """Return the numbers of the lines `Name: value` that stand under each other."""
        if not any(sign in self._text for sign in _SIGNS_OF_FIELDS):
            return set()
        found = {
            number
            for number, line in enumerate(lines)
            if line.role is Role.PROSE and _FIELD.match(self._text, self._content(line), line.end)
        }
        return {number for number in found if number - 1 in found or number + 1 in found}

    def _content(self, line: Line) -> int:
        """Return where the line's content begins, behind quote signs, white space and bullets."""
        start = self._quoted(line)
        start += len(self._text[start : line.end]) - len(self._text[start : line.end].lstrip())
        while line.role is not Role.PROSE and (bullet := _BULLET.match(self._text, start, line.end)):
            start = bullet.end()
        return start

    def _quoted(self, line: Line) -> int:
        """Return where the line begins behind its quote signs."""
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
