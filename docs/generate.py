"""The reference pages that follow from the code: `make reference` writes them, and a test compares them with it."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from docmill.storage.core.schema import Base, collections_of_tables
from docmill.storage.deletion.dependents import dependents
from docmill.storage.features import BUILT_IN, HEADINGS
from docmill.storage.readers.registry import COMPRESSIONS, FILES, PLACES, SCHEMES, SHORTHANDS, STDIN
from docmill.tasks.kinds import KINDS, OPTIONS
from docmill.tasks.kinds.options import flag, value_type
from docmill.worker.cli import docmill
from docmill.worker.cli.registry import all_commands
from docmill.worker.inventory import PLACES as PLACES_OF_TEXTS
from docmill.worker.pipelines.schema import json_schema
from docmill.worker.settings import PREFIX, Settings, Shown
from docs.chart import chart_values

FOLDER = Path(__file__).parent
WIDTH = 80


def pages() -> dict[str, str]:
    """Return the pages by the names of their files."""
    return {
        "chart-values.md": chart_values(),
        "command-line.md": command_line(),
        "internals.md": internals(),
        "options.md": options(),
        "pipeline.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        "removing.md": removing(),
        "settings.md": settings(),
        "source-kinds.md": source_kinds(),
        "sql-schema.md": sql_schema(),
    }


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
    parts.append("[Sources](sources.md) says how each is read.\n\n| a file | is | needs |\n| --- | --- | --- |")
    for suffix, kind in FILES.items():
        endings = ["", *(COMPRESSIONS if kind.may_be_compressed else ())]
        endings += [short for short, whole in SHORTHANDS.items() if whole[0] == suffix]
        named = [ending if ending in SHORTHANDS else suffix + ending for ending in endings]
        extra = f"the extra `{kind.extra.name}`" if kind.extra else "nothing"
        parts.append(_row(", ".join(f"`{name}`" for name in named), kind.holds, extra))
    parts.append("\n| a URL | is |\n| --- | --- |")
    parts += [_row(f"`{one.example}`", one.what) for one in dict.fromkeys(SCHEMES.values())]
    parts.append("\nOther sources are " + ", ".join([*PLACES, STDIN]) + ".\n")
    return "\n".join(parts)


def _from(source: str) -> str:
    return f"<!-- Written by `make reference` from {source}. Change it there. -->\n"


def command_line() -> str:
    """Return the page with the help of every command."""
    root = click.Context(docmill, info_name="docmill", terminal_width=WIDTH, max_content_width=WIDTH)
    parts = [
        "# Command line\n",
        _from("worker/cli"),
        "Each command with its help, as `--help` prints it.\n",
    ]
    parts.append(_help(root))
    for heading in HEADINGS:
        parts.append(f"## {heading}\n")
        for name, command in all_commands().items():
            if command.heading == heading:
                parts.extend(_commands(root, name))
    return "\n".join(parts)


def _commands(parent: click.Context, name: str) -> Iterator[str]:
    assert isinstance(parent.command, click.Group)
    command = parent.command.get_command(parent, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=parent)
    yield f"### {context.command_path}\n"
    yield _help(context)
    if isinstance(command, click.Group):
        for one in command.list_commands(context):
            yield from _commands(context, one)


def _help(context: click.Context) -> str:
    return f"```text\n{context.get_help()}\n```\n"


def options() -> str:
    """Return the page with the options of each kind of task."""
    parts = ["# Options by task\n", _from("tasks/kinds")]
    parts.append(
        "Each of these options is part of the spec: another value makes other results. The names are those of\n"
        "the command line; a [pipeline file](pipeline-file.md) and an [order](schedulers.md#celery) leave out the\n"
        "dashes.\n"
    )
    for kind in KINDS:
        parts.append(f"## {kind.name}\n\n{kind.summary}\n\n| option | description |\n| --- | --- |")
        for name, field in OPTIONS.items():
            if name in kind.options.model_fields:
                parts.append(_row(f"`{flag(name, field)}`", _sentence(field)))
        parts.append("")
    return "\n".join(parts)


def _sentence(field: FieldInfo) -> str:
    choices = get_args(value_type(field)) if get_origin(value_type(field)) is Literal else ()
    listed = f" One of {', '.join(f'`{one}`' for one in choices)}." if choices else ""
    return f"{(field.description or '').replace('  [', ' [')}{listed}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('{', '&#123;') for cell in cells)} |"


def _tables() -> list[type[Base]]:
    """Return the tables of the core and of docmill's own features."""
    dependents()
    collections_of_tables()  # both load them
    bases: tuple[type[Base], ...] = (Base, *Base.__subclasses__())
    classes: Iterable[type[Base]] = chain.from_iterable(base.__subclasses__() for base in bases)
    return [one for one in classes if "__tablename__" in vars(one) and one.__module__.startswith("docmill.")]


def sql_schema() -> str:
    """Return the page of tables."""
    parts = ["# SQL schema\n", _from("storage/core/schema.py")]
    parts.append(
        "Read these tables if you like, and let docmill alone write them. Times are seconds since 1970 by the\n"
        "database's clock. The [view of a pipeline](pipelines.md#the-view) and the views\n"
        "[`near_duplicates`](deduplicating.md#clusters-in-sql) and\n"
        "[`open_shards`](kubernetes.md#scaling-to-zero) are made to be queried.\n"
    )
    for one in sorted(_tables(), key=lambda one: one.__tablename__):
        about = (inspect.getdoc(one) or "").split("\n\n")[0] if one.__doc__ else ""
        parts.append(f"## {one.__tablename__}\n" + (f"\n{about}\n" if about else ""))
        parts.append("| column | type | |\n| --- | --- | --- |")
        for column in one.__table__.columns:
            notes = ["primary key"] if column.primary_key else []
            notes += [f"refers to `{key.target_fullname}`" for key in column.foreign_keys]
            notes += ["may be NULL"] if column.nullable else []
            parts.append(_row(f"`{column.name}`", str(column.type).lower(), ", ".join(notes)))
        parts.append("")
    return "\n".join(parts)


WORDS = {int: "whole number", float: "number"}


def settings() -> str:
    """Return the page of settings. Those that `Settings` inherits come last."""
    fields = sorted(Settings.model_fields.items(), key=lambda item: item[0] not in Settings.__annotations__)
    rows = "".join(_setting(name, field) for name, field in fields)
    return f"""\
# Settings

{_from("worker/settings.py")}
A docmill process takes settings from options, `DOCMILL_*` variables, or a `.env` file in the folder where it is
started, in this order. Unknown and bad settings are errors, listed together. An empty value is an error, too: leave a
variable out to have the default.

| variable | what | values | default |
| --- | --- | --- | --- |
{rows}"""


def _setting(name: str, field: FieldInfo) -> str:
    cells = (f"`{PREFIX}{name.upper()}`", field.description or "", _values(field), _default(field))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _shown(field: FieldInfo) -> Shown:
    return next((note for note in field.metadata if isinstance(note, Shown)), Shown())


def _values(field: FieldInfo) -> str:
    kind = field.annotation
    if words := _shown(field).values:
        return words
    if choices := _shown(field).choices or (get_args(kind) if get_origin(kind) is Literal else ()):
        return ", ".join(f"`{choice}`" for choice in choices)
    if len(there := [one for one in get_args(kind) if one is not type(None)]) == 1 and there[0] in WORDS:
        kind = there[0]  # such a number may be left out
    if kind in WORDS:
        return f"{WORDS[kind]}{_bounds(field)}"
    if get_origin(kind) is tuple:
        return "paths" if Path in get_args(kind) else "texts"
    return "path" if Path in {kind, *get_args(kind)} else "text"


def _bounds(field: FieldInfo) -> str:
    least = next((note.ge for note in field.metadata if isinstance(note, Ge)), None)
    above = next((note.gt for note in field.metadata if isinstance(note, Gt)), None)
    most = next((note.le for note in field.metadata if isinstance(note, Le)), None)
    if least is not None:
        return f", {least} to {most}" if most is not None else f", {least} or more"
    return f" above {above}" if above is not None else ""


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
