"""The page of the command line: each option once, with the tasks or commands that have it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import click

from docmill.storage.features import HEADINGS
from docmill.tasks.kinds import KINDS, NAMES
from docmill.worker.cli import all_commands, docmill

WIDTH = 80
LINE = 118
EVERYWHERE = {"--json", "--quiet", "--help", "--help-all"}
DEFAULT = re.compile(r"\[default: [^]]*\]")
SENTENCE = re.compile(r".*?\.(?= [A-Za-z]|$)|.*")
INTRODUCTION = """\
# Command line

<!-- Written by `make reference` from worker/cli. Change it there. -->

`docmill COMMAND --help` says more. This page lists each option once. Most commands also have `--json`, and `-q` or
`--quiet`, which prints only warnings and errors.
"""
OF_TASKS = """\
If you change an option of a task, docmill computes new results. A [pipeline file](pipeline-file.md) and
an [order](schedulers.md#celery) leave out the dashes.
"""


@dataclass(frozen=True)
class Line:
    """An option as help shows it."""

    name: str
    shown: str
    about: str

    def __str__(self) -> str:
        return f"- `{self.shown}`: {self.about}"


def command_line() -> str:
    """Return the page."""
    root = click.Context(docmill, info_name="docmill", terminal_width=WIDTH, max_content_width=WIDTH)
    exit_codes = " ".join((docmill.epilog or "").split())
    parts = [INTRODUCTION, "\n".join(textwrap.wrap(exit_codes, LINE)) + "\n"]
    known: dict[Line, str] = {}
    for heading in HEADINGS:
        parts.append(f"## {heading}\n")
        for name, command in all_commands().items():
            if command.heading == heading:
                parts += [f"### docmill {name}\n", *_command(_context(root, name), known)]
    return "\n".join(parts)


def _context(parent: click.Context, name: str) -> click.Context:
    assert isinstance(parent.command, click.Group)
    command = parent.command.get_command(parent, name)
    assert command is not None
    return click.Context(command, info_name=name, parent=parent)


def _command(context: click.Context, known: dict[Line, str]) -> Iterator[str]:
    command = context.command
    if not isinstance(command, click.Group):
        usage = _usage(context)
        yield (f"`{usage}`\n\n" if usage != context.command_path else "") + f"{_about(context)}\n"
        if lines := _options(context):
            yield _listed(lines.values(), known, context)
    elif command.list_commands(context) != [*NAMES]:
        yield f"{_about(context)}\n"
        for name in command.list_commands(context):
            one = _context(context, name)
            yield f"- `{_usage(one)}`: {_about(one)}\n"
            if lines := _options(one):
                yield textwrap.indent(_listed(lines.values(), known, one), "    ")
    elif known:
        yield from _like_run(context)
    else:
        yield from _tasks(context, known)


def _usage(context: click.Context) -> str:
    pieces = [piece for piece in context.command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    return " ".join([context.command_path, *pieces])


def _about(context: click.Context) -> str:
    """Return the first paragraph of a command's help."""
    return " ".join((context.command.help or "").strip().split("\n\n")[0].split())


def _options(context: click.Context) -> dict[str, Line]:
    """Return the options of a command by their names, but for those that every command has."""
    lines = {}
    for param in context.command.get_params(context):
        record = param.get_help_record(context)
        name = max(param.opts, key=len)
        if isinstance(param, click.Option) and record is not None and name not in EVERYWHERE:
            lines[name] = Line(name, record[0], _brief(record[1]))
    return lines


def _of_tasks(context: click.Context) -> dict[str, dict[str, Line]]:
    """Return the options of each task's command by their names."""
    assert isinstance(context.command, click.Group)
    of = {}
    for name in NAMES:
        command = context.command.get_command(context, name)
        assert command is not None
        of[name] = _options(click.Context(command, info_name=name, parent=context))
    return of


def _tasks(context: click.Context, known: dict[Line, str]) -> Iterator[str]:
    """Yield the options of `run`: those of one task, those of several, and those of all."""
    having: dict[Line, list[str]] = {}
    for name, lines in _of_tasks(context).items():
        for line in lines.values():
            known[line] = context.command_path
            having.setdefault(line, []).append(name)
    yield f"`{context.command_path} TASK SOURCE [OPTIONS]`\n\n{_about(context)}\n"
    yield OF_TASKS
    for kind in KINDS:
        yield f"#### {kind.name}\n\n{kind.summary}\n"
        if own := [line for line, names in having.items() if names == [kind.name]]:
            yield _listed(own)
    yield "#### Options of several tasks\n"
    several: dict[tuple[str, ...], list[Line]] = {}
    for line, names in having.items():
        if 1 < len(names) < len(NAMES):
            several.setdefault(tuple(names), []).append(line)
    for tasks, group in several.items():
        yield f"{', '.join(f'`{name}`' for name in tasks)}:\n\n{_listed(group)}"
    yield "#### Options of all tasks\n"
    yield _listed(line for line, names in having.items() if len(names) == len(NAMES))


def _like_run(context: click.Context) -> Iterator[str]:
    """Yield the options of `enqueue` that `run` lacks, and the names of those that only `run` has."""
    lines = _of_tasks(context)[NAMES[0]]
    assert context.parent is not None
    of_run = _of_tasks(_context(context.parent, "run"))[NAMES[0]]
    lacks = ", ".join(f"`{name}`" for name in of_run if name not in lines)
    yield f"`{context.command_path} TASK SOURCE [OPTIONS]`\n\n{_about(context)}\n"
    yield f"It has the options of `docmill run` except {lacks}, and:\n"
    yield _listed(line for name, line in lines.items() if name not in of_run)


def _brief(about: str) -> str:
    """Return the first sentence of an option's help, and its default."""
    text = " ".join(about.split())
    default = DEFAULT.search(text)
    sentence = SENTENCE.match(DEFAULT.sub("", text).strip())
    assert sentence is not None, about
    return f"{sentence[0]}{f' {default[0]}' if default else ''}".replace(
        "{", "&#123;"
    )  # else the site reads attributes


def _listed(lines: Iterable[Line], known: dict[Line, str] | None = None, context: click.Context | None = None) -> str:
    """Return a list of options. Those that another command has, too, are only named."""
    items, also = [], []
    for line in lines:
        if known is not None and line in known:
            also.append(f"`{line.name}`")
        else:
            items.append(str(line))
            if known is not None and context is not None:
                known[line] = context.command_path
    if also:
        items.append(f"- Also, as above: {', '.join(also)}.")
    return "".join(f"{item}\n" for item in items)
