"""The line that is found for a place of a TOML file is the line that it was written on."""

from __future__ import annotations

import datetime as dt
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pipelines.toml_positions import Place, lines

TRICKY = """\
# [no] = "table"
plain = 1 # name = 2
"quoted # = [key]" = '[also] = "none"'
dotted . "in parts" = "a \\"quote\\" # no comment"
long = \"\"\"
[not] = "a table"
key = 1 \\\"\"\" still the text
ends in two quotes of its own\"\"\"\"\"
raw = '''
[[nor]] = 'this' \\'''
many = [ # a comment with ]
  "one ] # ",

  [2, 3],
  { inline = 4, deep.er = [
     5 ] },
]
when = 1979-05-27 07:32:00 # a date with a space

[table]
key = {}
[[list]]
key = "first"
[list.'under it']
key = 1
  [[ list ]]
[[list.more]]
key = 2
"""


def test_strings_comments_arrays_and_dotted_keys_do_not_mislead() -> None:
    found = lines(TRICKY)
    assert found["plain",] == 2
    assert found["quoted # = [key]",] == 3
    assert found["dotted",] == found["dotted", "in parts"] == 4
    assert found["long",] == 5
    assert found["raw",] == 9
    assert [found["many", place] for place in range(3)] == [12, 14, 15]
    assert found["many", 2, "deep", "er"] == 15
    assert found["many", 2, "deep", "er", 0] == 16
    assert found["when",] == 18
    assert found["table", "key"] == 21
    assert found["list", 0, "key"] == 23
    assert found["list", 0, "under it", "key"] == 25
    assert found["list", 1] == 26
    assert found["list", 1, "more", 0, "key"] == 28
    assert places(tomllib.loads(TRICKY)) <= found.keys()


def test_an_empty_file_has_no_places() -> None:
    assert not lines("")
    assert not lines("# nothing")


def test_lines_may_end_as_on_windows() -> None:
    assert lines('a = 1\r\n\r\nb = """\r\n"""\r\n[c]\r\nd = [\r\n1]\r\n')["c", "d", 0] == 7


def places(value: Any, place: Place = ()) -> set[Place]:
    """Every place of what tomllib made of a file."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {place for place in [place] if place}.union(*(places(one, (*place, name)) for name, one in inner))


# A writer of random TOML that knows on which line it puts what.

NASTY = st.text(st.sampled_from("ab #=[]{},.'\"\\\n\té"), max_size=12)
BLANK = st.sampled_from(["", " ", "\t", "  "])
COMMENT = st.sampled_from(["", " # [x]", '#"""', " # a = '", "# {"])
KEYS = st.one_of(st.from_regex("[A-Za-z0-9_-]{1,6}", fullmatch=True), NASTY)
BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class Writer:
    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.expected: dict[Place, int] = {}

    def mark(self, place: Place) -> None:
        self.expected.setdefault(place, self.text.count("\n") + 1)

    def between(self) -> None:
        for _ in range(self.draw(st.integers(0, 2))):
            self.text += self.draw(BLANK) + self.draw(COMMENT) + "\n"

    def key(self, name: str) -> None:
        if name and BARE.issuperset(name) and self.draw(st.booleans()):
            self.text += name
        elif self.draw(st.booleans()) and not set(name) & {"'", "\n"}:
            self.text += f"'{name}'"
        else:
            self.text += self.basic(name)

    def basic(self, text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'

    def string(self, text: str) -> None:
        forms = [self.basic(text), '"""\n' + text.replace("\\", "\\\\").replace('"""', '""\\"') + '"""']
        if text.endswith('"'):
            forms[1] = '"""' + text.replace("\\", "\\\\").replace('"', '\\"') + 'x"""""'
        if not set(text) & {"'", "\n"}:
            forms.append(f"'{text}'")
        if "'''" not in text and not text.endswith("'"):
            forms.append(f"'''{text}''" + "'")
        self.text += self.draw(st.sampled_from(forms))

    def value(self, place: Place, depth: int = 0, *, one_line: bool = False) -> None:
        kind = self.draw(st.sampled_from(["text", "plain", "list", "table"] if depth < 3 else ["text", "plain"]))
        if kind == "text":
            self.string(self.draw(NASTY))
        elif kind == "plain":
            plain = [
                12,
                -1.5,
                "inf",
                "true",
                "0xff",
                "1_000",
                dt.date(1979, 5, 27),
                "1979-05-27 07:32:00",
                "07:32:00",
            ]
            self.text += str(self.draw(st.sampled_from(plain)))
        elif kind == "list":
            self.elements(place, depth, one_line=one_line)
        else:
            self.pairs(place, depth)

    def elements(self, place: Place, depth: int, *, one_line: bool) -> None:
        self.text += "["
        for number in range(self.draw(st.integers(0, 3))):
            self.gap(one_line=one_line)
            self.mark((*place, number))
            self.value((*place, number), depth + 1, one_line=one_line)
            self.gap(one_line=one_line)
            self.text += ","
        self.gap(one_line=one_line)
        self.text += "]"

    def gap(self, *, one_line: bool) -> None:
        self.text += self.draw(BLANK)
        if not one_line:
            self.between()

    def pairs(self, place: Place, depth: int) -> None:
        """An inline table: on one line, but for the strings and arrays in it."""
        self.text += "{"
        for number, name in enumerate(self.draw(st.lists(KEYS, max_size=3, unique=True))):
            self.text += "," if number else ""
            self.text += self.draw(BLANK)
            self.pair(place, [name], depth + 1)
            self.text += self.draw(BLANK)
        self.text += "}"

    def pair(self, place: Place, names: list[str], depth: int = 0) -> None:
        for number, name in enumerate(names):
            place = (*place, name)
            self.mark(place)
            self.text += self.draw(BLANK) + "." + self.draw(BLANK) if number else ""
            self.key(name)
        self.text += self.draw(BLANK) + "=" + self.draw(BLANK)
        self.value(place, depth)

    def body(self, place: Place) -> None:
        for name in self.draw(st.lists(KEYS, max_size=3, unique=True)):
            self.between()
            self.text += self.draw(BLANK)
            self.pair(place, [name, *self.draw(st.lists(KEYS, max_size=2))])
            self.text += self.draw(BLANK) + self.draw(COMMENT) + "\n"
        self.between()

    def header(self, names: list[str], brackets: int) -> None:
        self.text += self.draw(BLANK) + "[" * brackets + self.draw(BLANK)
        for number, name in enumerate(names):
            self.text += "." if number else ""
            self.key(name)
        self.text += self.draw(BLANK) + "]" * brackets + self.draw(COMMENT) + "\n"


@st.composite
def files(draw: st.DrawFn) -> tuple[str, dict[Place, int]]:
    writer = Writer(draw)
    writer.body(())
    for key in draw(st.lists(KEYS, max_size=3, unique=True)):
        name = f"table {key}"
        for number in range(draw(st.integers(0, 2))):
            array: Place = (name, number)
            writer.mark((name,))
            writer.mark(array)
            writer.header([name], 2)
            writer.body(array)
            if draw(st.booleans()):
                writer.mark((*array, "under\n"))
                writer.mark((*array, "under\n", "it"))
                writer.header([name, "under\n", "it"], 1)
                writer.body((*array, "under\n", "it"))
        single: Place = (f"{name} alone",)
        writer.mark(single)
        writer.header([f"{name} alone"], 1)
        writer.body(single)
    return writer.text, writer.expected


@pytest.mark.slow
@given(files())
def test_the_line_that_is_found_is_the_line_that_was_written(file: tuple[str, dict[Place, int]]) -> None:
    text, expected = file
    assert lines(text) == expected
    assert places(tomllib.loads(text)) == expected.keys()


@pytest.mark.parametrize("name", ["", "a b", "é", '"', "\\", "line\nbreak"])
def test_a_quoted_key_is_read_as_tomllib_reads_it(name: str) -> None:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert lines(f'\n"{escaped}" = 1') == {(name,): 2}
