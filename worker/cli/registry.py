"""The commands. A command, or a group of commands, is a function in `worker/cli/commands/` and one line here.

The function is NAME_command, and the line names its module. Features bring more commands (`storage/features.py`).
Help reads only these lines, so it loads no command's module.
"""

from __future__ import annotations

from collections.abc import Mapping

from docmill.storage.features import (
    ADVANCED,
    CORPORA,
    FLEET,
    RESULTS,
    WORK,
    Command,
    feature_commands,
    find_command,
)


def _own(heading: str, about: str, module: str) -> Command:
    return Command(heading, about, f"docmill.worker.cli.commands.{module}")


OWN_COMMANDS = {
    "run": _own(WORK, "Run a task over a source, here and now.", "run"),
    "enqueue": _own(WORK, "Store a source as a job and leave the work to the workers.", "run"),
    "jobs": _own(WORK, "List the latest jobs.", "jobs"),
    "status": _own(WORK, "Show a job's progress, or wait for its end.", "jobs"),
    "retry": _own(WORK, "Try a job's failed documents again.", "jobs"),
    "cancel": _own(WORK, "Stop a job; finished results stay.", "jobs"),
    "results": _own(RESULTS, "Write a job's results as JSON lines, CSV, Parquet or an array.", "results"),
    "failures": _own(RESULTS, "List the documents without a result, with the reasons.", "jobs"),
    "search": _own(RESULTS, "Find the documents of a corpus that are nearest to a text.", "search"),
    "corpus": _own(CORPORA, "List, show or remove corpora and documents; trace a text.", "corpus"),
    "pipeline": _own(CORPORA, "Run several steps over a corpus, by hand or on a schedule.", "pipeline"),
    "worker": _own(FLEET, "Start a worker.", "worker"),
    "web": _own(FLEET, "Show jobs and results in a browser.", "web"),
    "models": _own(FLEET, "List models that have names, check one, or get the demo models.", "models"),
    "doctor": _own(FLEET, "Check this installation, or only its workers.", "installation"),
    "pause": _own(ADVANCED, "Pause a job until it is resumed.", "jobs"),
    "resume": _own(ADVANCED, "Resume a paused job.", "jobs"),
    "priority": _own(ADVANCED, "Change a job's priority.", "jobs"),
    "index": _own(ADVANCED, "Make, list or drop indexes of vectors, for large corpora.", "index"),
    "gc": _own(ADVANCED, "Remove unreferenced texts, old results and old versions.", "gc"),
    "db": _own(ADVANCED, "Upgrade the store's schema, and correct its counts.", "installation"),
    "completion": _own(ADVANCED, "Print the script that completes docmill's commands in a shell.", "installation"),
}


def all_commands() -> Mapping[str, Command]:
    """Return docmill's commands and those of features, by their names."""
    return OWN_COMMANDS | {name: command for name, command in feature_commands().items() if name not in OWN_COMMANDS}


def command_of(name: str) -> Command | None:
    """Return a command; None if there is none of this name."""
    return OWN_COMMANDS.get(name) or find_command(name)
