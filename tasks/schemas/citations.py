"""The places in a text where the values of a record stand.

A string stands where the text has the same characters, or else the same but for upper and lower case and for white
space. Of several places the first that cuts no word counts, or else the first. A number stands where the text has a
number in digits of the same value; commas between thousands are allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cached_property
from typing import TypeAlias

from storage.json_values import GivenJson

Range: TypeAlias = tuple[int, int]  # [start, end) in characters

_NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")
_MINUS = "-−"
_LONGEST_NUMBER = 60  # characters; no record has one so long


def normalized(text: str) -> str:
    """Return a text without upper case, and with one space for each run of white space inside it."""
    return " ".join(text.split()).casefold()


def citations(record: Mapping[str, GivenJson], text: str) -> dict[str, list[int] | None]:
    """Return the place of each string and number of a record, by its JSON Pointer; None where it stands nowhere."""
    places = Places(text)
    return {pointer: [*found] if (found := places.of(value)) else None for pointer, value in _leaves(record, "")}


def _leaves(value: GivenJson, pointer: str) -> Iterator[tuple[str, str | int | float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{pointer}/{number}")
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield pointer, value


class Places:
    """The places of values in one text, which is prepared once."""

    def __init__(self, text: str) -> None:
        self._text = text

    def of(self, value: str | int | float) -> Range | None:
        """Return the place of a value; None where it stands nowhere."""
        if not isinstance(value, str):
            return self._numbers.get(Decimal(str(value)))
        if not value.strip():
            return None
        return _found(value, self._text) or self._loosely(value)

    @cached_property
    def _numbers(self) -> Mapping[Decimal, Range]:
        """The first place of each number in the text."""
        found: dict[Decimal, Range] = {}
        for match in _NUMBER.finditer(self._text):
            if len(match[0]) > _LONGEST_NUMBER:
                continue
            start, end = match.span()
            value = Decimal(match[0].replace(",", ""))
            found.setdefault(value, (start, end))
            if start and self._text[start - 1] in _MINUS:
                found.setdefault(-value, (start - 1, end))
        return found

    @cached_property
    def _folded(self) -> tuple[str, list[Range]]:
        """The normalised text, and for each character of it the place of what it stands for."""
        characters: list[str] = []
        places: list[Range] = []
        for word in re.finditer(r"\S+", self._text):
            if characters:
                characters.append(" ")
                places.append((places[-1][1], word.start()))
            for at, character in enumerate(word[0], word.start()):
                folded = character.casefold()
                characters.append(folded)
                places += [(at, at + 1)] * len(folded)
        return "".join(characters), places

    def _loosely(self, value: str) -> Range | None:
        folded, places = self._folded
        wanted = normalized(value)
        found = _found(wanted, folded)
        if found is None:
            return None
        start, end = places[found[0]][0], places[found[1] - 1][1]
        # A character such as ß stands for several, of which the value may have only the last or the first.
        return (start, end) if normalized(self._text[start:end]) == wanted else None


def _found(value: str, text: str) -> Range | None:
    """Return the first place of a value that cuts no word, or else the first."""
    at_start = r"(?<!\w)" if value[0].isalnum() else ""
    at_end = r"(?!\w)" if value[-1].isalnum() else ""
    match = re.search(f"{at_start}{re.escape(value)}{at_end}", text)
    start = match.start() if match is not None else text.find(value)
    return (start, start + len(value)) if start >= 0 else None
