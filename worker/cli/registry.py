"""The commands. A command, or a group of commands, is a function in `worker/cli/commands/` and one line here.

The function is NAME_command, and the line names its module. Features bring more commands (`storage/features.py`).
Help reads only these lines, so it loads no command's module.
"""

from __future__ import annotations

from collections.abc import Mapping

from docmill.storage.features import (
    ADMINISTRATION,
    CORPORA,
    FLEET,
    PIPELINES,
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
    "status": _own(WORK, "Show a job's progress, and the reason if it makes none.", "jobs"),
    "retry": _own(WORK, "Try a job's failed documents again.", "jobs"),
    "pause": _own(WORK, "Pause a job until it is resumed.", "jobs"),
    "resume": _own(WORK, "Resume a paused job.", "jobs"),
    "priority": _own(WORK, "Change a job's priority.", "jobs"),
    "cancel": _own(WORK, "Stop a job; finished results stay.", "jobs"),
    "results": _own(RESULTS, "Write a job's results as JSON lines, CSV, Parquet or an array.", "results"),
    "failures": _own(RESULTS, "List the documents without a result, with the reasons.", "jobs"),
    "search": _own(RESULTS, "Find the documents of a corpus that are nearest to a text.", "search"),
    "corpus": _own(CORPORA, "List, show or remove corpora and documents; trace a text.", "corpus"),
    "index": _own(CORPORA, "Make, list or drop indexes of vectors, for large corpora.", "index"),
    "gc": _own(CORPORA, "Remove unreferenced texts, old results and old versions.", "gc"),
    "pipeline": _own(PIPELINES, "Run several steps over a corpus, by hand or on a schedule.", "pipeline"),
    "worker": _own(FLEET, "Start a worker.", "worker"),
    "web": _own(FLEET, "Show jobs and results in a browser.", "web"),
    "models": _own(ADMINISTRATION, "List the models that have names, or check a model.", "models"),
    "db": _own(ADMINISTRATION, "Upgrade the store's schema, and correct its counts.", "installation"),
    "doctor": _own(ADMINISTRATION, "Check this installation, or only its workers.", "installation"),
    "completion": _own(
        ADMINISTRATION, "Print the script that completes docmill's commands in a shell.", "installation"
    ),
}


def all_commands() -> Mapping[str, Command]:
    """Return docmill's commands and those of features, by their names."""
    return OWN_COMMANDS | {name: command for name, command in feature_commands().items() if name not in OWN_COMMANDS}


def command_of(name: str) -> Command | None:
    """Return a command; None if there is none of this name."""
    return OWN_COMMANDS.get(name) or find_command(name)
