"""The tables of a file against what is known of them: every unknown name and wrong value is noted, with its line.

A check takes a value and says what is wrong with it, or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.near_misses import nearly
from worker.pipelines.lines import Place

Check = Callable[[Any], str | None]

MOST = 2**31 - 1  # as in the command's options: far more than makes sense, far less than a database holds
_SHOWN_CHARS = 40


@dataclass
class Notes:
    """What was found to be wrong; ``lines`` says on which line each place of the file stands."""

    lines: Mapping[Place, int]
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, place: Place, sentence: str) -> None:
        self.found.append((self.line(place), sentence))

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest around it that is written."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_table(values: Mapping[str, Any], place: Place, known: Mapping[str, Check], notes: Notes) -> dict[str, Any]:
    """Those of a table's values that are known and right; the others are noted."""
    good = {}
    for name, value in values.items():
        if name not in known:
            notes.add((*place, name), f"there is no {name} {_within(place)}; {nearest(name, known)}")
        elif problem := known[name](value):
            notes.add((*place, name), f"{name} {problem}")
        else:
            good[name] = value
    return good


def _within(place: Place) -> str:
    if not place:
        return "at the top of a pipeline"
    return f"in [[{place[0]}]]" if len(place) > 1 else f"in [{place[0]}]"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at what was meant: the nearest of the known names, or all of them."""
    names = list(known)
    close = nearly(name, names)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"


def shown(value: Any) -> str:
    """A value of a TOML file as a sentence may show it: short, and on one line."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    return repr(value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "…")


def text(value: Any) -> str | None:
    if problem := any_text(value):
        return problem
    return None if value.strip() else "is empty; fill it in or leave it out"


def any_text(value: Any) -> str | None:
    """A text that may be empty or blank."""
    return None if isinstance(value, str) else f"must be a text in quotes, not {shown(value)}"


def pattern(expression: str, about: str) -> Check:
    """A text of a form, which ``about`` describes."""
    form = re.compile(expression, re.ASCII)

    def check(value: Any) -> str | None:
        return text(value) or (None if form.fullmatch(value) else f"must be {about}; {shown(value)} is not")

    return check


def choice(*names: str) -> Check:
    def check(value: Any) -> str | None:
        return text(value) or (None if value in names else f"must be {_either(names)}, not {shown(value)}")

    return check


def _either(names: tuple[str, ...]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


def switch(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, not {shown(value)}"


def whole(least: int = -MOST, most: int = MOST) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return f"must be a whole number, not {shown(value)}"
        return _between(value, least, most)

    return check


def number(least: float = -MOST, most: float = MOST) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"must be a number, not {shown(value)}"
        return _between(value, least, most)

    return check


def _between(value: float, least: float, most: float) -> str | None:
    if least <= value <= most:  # which no NaN does
        return None
    if value < least and least != -MOST:
        return f"must be at least {least:g}"
    return f"must be between {least:,} and {most:,}"


def texts(value: Any) -> str | None:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return f'must be a list of texts, such as ["a", "b"], not {shown(value)}'
    return None if value else "is empty; fill it in or leave it out"


def table(name: str) -> Check:
    def check(value: Any) -> str | None:
        return None if isinstance(value, dict) else f"must be a table, written [{name}], not {shown(value)}"

    return check


def tables(name: str) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            return None
        return f"must be tables, each written [[{name}]], with two brackets"

    return check
