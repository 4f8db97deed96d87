"""Find the line of each key, table and element of a TOML file, which tomllib does not give.

Other libraries do not give it either: tomli is tomllib, and tomlkit keeps the layout without positions (its issue
55). tomllib has parsed the text before, so this follows the grammar of TOML 1.0 and validates nothing.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping

# The names and numbers that lead to a value from the top of the file: ("step", 0, "model").
Place = tuple[str | int, ...]

# A long text may end in two quotes of its own before the three that close it. Longer quotes are tried first.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})|' r"'''.*?'''(?:'{0,2})|" r'"(?:[^"\\]|\\.)*"|' r"'[^']*'", re.DOTALL
)
_SIMPLE_KEY = re.compile(r'[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|' r"'[^']*'")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_BLANK = re.compile(r"[ \t]*")
_BETWEEN = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_PLAIN = re.compile(r"[^,\]}#\n]+")  # numbers, booleans, dates (which may hold a space)


def lines(text: str) -> Mapping[Place, int]:
    """The line, from 1, on which each place of a valid TOML file is first written."""
    return _Walk(text).found


class _Walk:
    def __init__(self, text: str) -> None:
        self.found: dict[Place, int] = {}
        self._text = text
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._tables: dict[Place, int] = {}  # how many tables each [[array]] has so far
        self._file()

    def _file(self) -> None:
        under: Place = ()
        self._pass(_BETWEEN)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                under = self._header()
            else:
                self._pair(under)
            self._pass(_BETWEEN)

    def _header(self) -> Place:
        """A [table] or [[table]]: the place that the keys after it belong to."""
        start = self._at
        brackets = 2 if self._text.startswith("[[", start) else 1
        self._at += brackets
        *parents, name = self._key()
        under: Place = ()
        for parent in parents:
            under = self._latest(self._mark((*under, parent), start))
        under = self._mark((*under, name), start)
        if brackets == 2:
            self._tables[under] = self._tables.get(under, 0) + 1
        self._pass(_BLANK)
        self._at += brackets
        return self._mark(self._latest(under), start)

    def _latest(self, place: Place) -> Place:
        """A name of an array of tables means its latest table."""
        return (*place, self._tables[place] - 1) if place in self._tables else place

    def _pair(self, under: Place) -> None:
        start = self._at
        for name in self._key():
            under = self._mark((*under, name), start)
        self._pass(_BLANK)
        self._at += 1  # the equals sign
        self._pass(_BLANK)
        self._value(under)

    def _key(self) -> list[str]:
        """The parts of a dotted key."""
        self._pass(_BLANK)
        parts = [self._name()]
        while dot := _DOT.match(self._text, self._at):
            self._at = dot.end()
            parts.append(self._name())
        return parts

    def _name(self) -> str:
        raw = self._pass(_SIMPLE_KEY)
        if raw[0] not in "\"'":
            return raw
        name = tomllib.loads(f"name = {raw}")["name"]
        assert isinstance(name, str)
        return name

    def _value(self, place: Place) -> None:
        opening = self._text[self._at]
        if opening == "[":
            self._elements(place)
        elif opening == "{":
            self._pairs(place)
        else:
            self._pass(_STRING if opening in "\"'" else _PLAIN)

    def _elements(self, place: Place) -> None:
        self._at += 1
        self._pass(_BETWEEN)
        number = 0
        while self._text[self._at] != "]":
            self._value(self._mark((*place, number), self._at))
            self._pass(_BETWEEN)
            number += 1
        self._at += 1

    def _pairs(self, place: Place) -> None:
        self._at += 1
        self._pass(_BETWEEN)
        while self._text[self._at] != "}":
            self._pair(place)
            self._pass(_BETWEEN)
        self._at += 1

    def _pass(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match is not None, "tomllib has read this"
        self._at = match.end()
        return match.group()

    def _mark(self, place: Place, at: int) -> Place:
        self.found.setdefault(place, bisect_right(self._ends, at) + 1)
        return place
