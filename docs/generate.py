"""The reference pages that follow from the code: `make reference` writes them, and a test compares them with it."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from sqlalchemy import Column

from docmill.storage.core.invariants import invariants
from docmill.storage.core.schema import Base, collections_of_tables
from docmill.storage.deletion.needed import dependents
from docmill.storage.features import BUILT_IN
from docmill.storage.readers.registry import COMPRESSIONS, FILES, PLACES, SCHEMES, SHORTHANDS, STDIN
from docmill.worker.inventory import PLACES as PLACES_OF_TEXTS
from docmill.worker.pipelines.schema import json_schema
from docmill.worker.settings import PREFIX, Settings, Shown
from docs.chart import chart_values
from docs.commands import command_line

FOLDER = Path(__file__).parent
WIDTH = 80
LINE = 118


def pages() -> dict[str, str]:
    """Return the pages by the names of their files."""
    return {
        "chart-values.md": chart_values(),
        "command-line.md": command_line(),
        "internals.md": internals(),
        "invariants.md": list_invariants(),
        "pipeline.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        "removing.md": removing(),
        "settings.md": settings(),
        "source-kinds.md": source_kinds(),
        "sql-schema.md": sql_schema(),
    }


def list_invariants() -> str:
    """Return the page about invariants with a row for each."""
    mark = _from("storage/core/invariants.sql")
    before, mark, _ = (FOLDER / "invariants.md").read_text(encoding="utf-8").partition(mark)
    rows = [_row(f"`{one.name}`", one.sentence) for one in invariants(None)]
    return before + mark + "\n".join(["", "| name | what holds |", "| --- | --- |", *rows, ""])


def removing() -> str:
    """Return the page about removing with the table of the places where something of a document may lie."""
    before, mark, rest = (FOLDER / "removing.md").read_text(encoding="utf-8").partition(_from("worker/inventory.py"))
    _, heading, after = rest.partition("\n## ")
    parts = ["", "| place | left after `rm` and `gc` |", "| --- | --- |"]
    parts += [_row(place.name, place.left) for place in PLACES_OF_TEXTS]
    return before + mark + "\n".join([*parts, heading]) + after


def internals() -> str:
    """Return the page about the design with the picture of the rooms, by the contracts that hold the imports."""
    mark = _from("the import contracts in pyproject.toml")
    before, mark, rest = (FOLDER / "internals.md").read_text(encoding="utf-8").partition(mark)
    _, fence, after = rest.partition("\n```\n")
    contracts = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = {"features": [[module.rpartition(".")[2] for module in BUILT_IN]]}
    for package in ("worker", "tasks", "storage"):
        [layers] = [one["layers"] for one in contracts if one.get("containers") == [f"docmill.{package}"]]
        floors[package] = [re.findall(r"\w+", layer) for layer in layers]
    lines = []
    for package, rooms in floors.items():
        of_one = all(len(floor) == 1 for floor in rooms)
        drawn = [" → ".join(room for (room,) in rooms)] if of_one else ["  ".join(floor) for floor in rooms]
        wrapped = [line for floor in drawn for line in textwrap.wrap(floor, WIDTH - 12)]
        lines += [f"{name:10}{line}" for name, line in zip([package, *[""] * len(wrapped)], wrapped, strict=False)]
    return before + mark + "```text\n" + "\n".join(lines) + fence + after


def source_kinds() -> str:
    """Return the page with the kinds of sources."""
    parts = ["# Kinds of sources\n", _from("storage/readers/registry.py")]
    compressed = " or ".join(f"`{ending}`" for ending in COMPRESSIONS)
    parts.append(
        f"[Sources](sources.md) says how docmill reads them. Files with a star may also end in {compressed}.\n"
    )
    parts.append("| a file | is | needs |\n| --- | --- | --- |")
    suffixes: dict[tuple[str, str], list[str]] = {}
    for suffix, kind in FILES.items():
        row = kind.holds, f"the extra `{kind.extra.name}`" if kind.extra else "nothing"
        star = "\\*" if kind.may_be_compressed else ""
        shorthands = [f"`{short}`" for short, whole in SHORTHANDS.items() if whole[0] == suffix]
        suffixes.setdefault(row, []).extend([f"`{suffix}`{star}", *shorthands])
    parts += [_row(", ".join(names), *row) for row, names in suffixes.items()]
    parts.append("\n| a URL | is |\n| --- | --- |")
    parts += [_row(f"`{one.example}`", one.what) for one in dict.fromkeys(SCHEMES.values())]
    parts.append("\nOther sources are " + ", ".join([*PLACES, STDIN]) + ".\n")
    return "\n".join(parts)


def _from(source: str) -> str:
    return f"<!-- Written by `make reference` from {source}. Change it there. -->\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('{', '&#123;') for cell in cells)} |"


def _tables() -> list[type[Base]]:
    """Return the tables of the core and of docmill's own features."""
    dependents()
    collections_of_tables()  # both load them
    classes: list[type[Base]] = [Base]
    for one in classes:  # which grows
        classes += one.__subclasses__()
    return [one for one in classes if "__tablename__" in vars(one) and one.__module__.startswith("docmill.")]


def sql_schema() -> str:
    """Return the page of tables."""
    parts = ["# SQL schema\n", _from("storage/core/schema.py")]
    parts.append(
        "You may read these tables, but only docmill may write them. Names that end in `_at` are times in seconds\n"
        "since 1970, by the database's clock. Columns without a type are bigint. **Bold** columns are the primary\n"
        "key, `?` marks columns that may be NULL, and an arrow leads to the table that a column refers to.\n"
        "The [view of a pipeline](pipelines.md#the-view) and the views [`results`](tables.md#results-in-sql),\n"
        "[`near_duplicates`](deduplicating.md#clusters-in-sql) and [`open_shards`](kubernetes.md#scaling-to-zero)\n"
        "are made for queries.\n"
    )
    for one in sorted(_tables(), key=lambda one: one.__tablename__):
        about = (inspect.getdoc(one) or "").split("\n\n")[0] if one.__doc__ else ""
        parts.append(f"## {one.__tablename__}\n" + (f"\n{about}\n" if about else ""))
        columns = ", ".join(_column(column) for column in one.__table__.columns)
        parts.append("\n".join(textwrap.wrap(columns, LINE)) + "\n")
    return "\n".join(parts)


def _column(column: Column[Any]) -> str:
    name = f"**`{column.name}`**" if column.primary_key else f"`{column.name}`"
    refers = "".join(f" → `{key.target_fullname.partition('.')[0]}`" for key in column.foreign_keys)
    kind = str(column.type).lower().replace("bigint", "")
    return f"{name} {kind}".strip() + f"{'?' if column.nullable else ''}{refers}"


def settings() -> str:
    """Return the page of settings. Those that `Settings` inherits come last."""
    fields = sorted(Settings.model_fields.items(), key=lambda item: item[0] not in Settings.__annotations__)
    rows = "".join(_setting(name, field) for name, field in fields)
    return f"""\
# Settings

{_from("worker/settings.py")}
A docmill process takes settings from options, `DOCMILL_*` variables, or a `.env` file in the folder where it is
started, in this order. Unknown, bad and empty settings are errors, listed together. An age is `12h`, `90d`, `6w`,
`1y` or `never`.

| variable | description | default |
| --- | --- | --- |
{rows}"""


def _setting(name: str, field: FieldInfo) -> str:
    described = " ".join(filter(None, [field.description, _values(field)]))
    return f"{_row(f'`{PREFIX}{name.upper()}`', described, _default(field))}\n"


def _shown(field: FieldInfo) -> Shown:
    return next((note for note in field.metadata if isinstance(note, Shown)), Shown())


def _values(field: FieldInfo) -> str:
    """Return the choices or the bounds of a setting; an empty text if there are none."""
    kind = field.annotation
    if choices := _shown(field).choices or (get_args(kind) if get_origin(kind) is Literal else ()):
        several = "Any" if get_origin(kind) is tuple else "One"
        return f"{several} of {', '.join(f'`{choice}`' for choice in choices)}."
    least = next((note.ge for note in field.metadata if isinstance(note, Ge)), None)
    most = next((note.le for note in field.metadata if isinstance(note, Le)), None)
    if least is None:
        return ""
    return f"From {least} to {most}." if most is not None else f"At least {least}."


def _default(field: FieldInfo) -> str:
    if words := _shown(field).default:
        return words
    if field.default is None:
        return "none"
    return f"{field.default:g}" if isinstance(field.default, float | int) else f"`{field.default}`"


def main() -> None:
    """Write the pages beside this file."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
