"""The tables of a file against their models: every unknown key and wrong value is noted, with its line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from tasks import kinds
from tasks.kinds.options import key, option
from tasks.kinds.validation import EMPTY, sentence
from tasks.near_misses import nearly
from worker.pipelines.schema import Table
from worker.pipelines.toml_positions import Place

_OPTION_KEYS = frozenset(key(name, field) for name, field in kinds.OPTIONS.items())


@dataclass
class Notes:
    """Errors that were found; ``lines`` says on which line each place of the file stands."""

    lines: Mapping[Place, int]
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, place: Place, sentence: str) -> None:
        self.found.append((self.line(place), sentence))

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest around it that is written."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_table(
    values: Mapping[str, Any], place: Place, model: type[Table], notes: Notes, *, beside: Iterable[str] = ()
) -> dict[str, Any]:
    """Return a table's values that are known and right; note the others, but not the keys that are missing.

    ``beside`` are names that stand where the table's keys do.
    """
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    good = dict(values)
    for name, value in values.items():
        if name in fields and isinstance(value, str) and not value.strip() and not option(fields[name]).may_be_empty:
            notes.add((*place, name), f"{name} {EMPTY}")
            del good[name]
    try:
        model.model_validate(good)
    except ValidationError as error:
        for one in error.errors():
            name = str(one["loc"][0])
            if one["type"] == "missing" or good.pop(name, None) is None:
                continue
            if one["type"] != "extra_forbidden":
                notes.add((*place, name), f"{name} {sentence(one, fields[name])}")
            elif name in _OPTION_KEYS and "task" in good:
                notes.add((*place, name), f"{name} has no meaning for {good['task']}")
            else:
                notes.add((*place, name), f"there is no {name} {_within(place)}; {nearest(name, (*fields, *beside))}")
    return good


def _within(place: Place) -> str:
    if not place:
        return "at the top of a pipeline"
    return f"in [[{place[0]}]]" if len(place) > 1 else f"in [{place[0]}]"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the name that was meant: the nearest of the known names, or all of them."""
    names = list(known)
    close = nearly(name, names)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
