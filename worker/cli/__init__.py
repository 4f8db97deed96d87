"""The command line. Each command parses, calls one function and prints; heavy modules load when they are needed.

Data goes to stdout, talk to stderr.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import sys
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from docmill.storage.errors import StorageError
from docmill.storage.features import (
    ADVANCED,
    CORPORA,
    FLEET,
    HEADINGS,
    RESULTS,
    WORK,
    Command,
    feature_commands,
    find_command,
)
from docmill.tasks.errors import find_similar, suggest
from docmill.worker.cli.printing import (
    discard_stdout,
    hear_signals,
    leave,
    leave_interrupts_unlogged,
    let_signals_kill,
    open_closed_streams,
    repeat_dropped_interrupts,
    was_interrupted,
    with_quiet,
)
from docmill.worker.jobs.errors import exit_code, sentence
from docmill.worker.logs import ignore_write_errors
from docmill.worker.terminal import warn


def _own(heading: str, about: str, module: str) -> Command:
    return Command(heading, about, f"docmill.worker.cli.commands.{module}")


# A command, or a group of commands, is a function NAME_command in `worker/cli/commands/` and one line here, which
# names its module. Features bring more. Help reads only these lines, so it loads no command's module.
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
    "models": _own(FLEET, "List named models, check a model, or get the demo models.", "models"),
    "doctor": _own(FLEET, "Check this installation, or only its workers.", "installation"),
    "pause": _own(ADVANCED, "Pause a job until it is resumed.", "jobs"),
    "resume": _own(ADVANCED, "Resume a paused job.", "jobs"),
    "priority": _own(ADVANCED, "Change a job's priority.", "jobs"),
    "index": _own(ADVANCED, "Make, list or drop indexes of vectors, for large corpora.", "search"),
    "gc": _own(ADVANCED, "Remove unreferenced texts, old results and old versions.", "gc"),
    "db": _own(ADVANCED, "Upgrade the store's schema, and correct its counts.", "installation"),
    "completion": _own(ADVANCED, "Print the script that completes docmill's commands in a shell.", "installation"),
}


def all_commands() -> Mapping[str, Command]:
    """Return the commands of docmill and of features, by their names."""
    return OWN_COMMANDS | {name: command for name, command in feature_commands().items() if name not in OWN_COMMANDS}


def find_any_command(name: str) -> Command | None:
    """Return a command; None if there is none of this name."""
    return OWN_COMMANDS.get(name) or find_command(name)


def _advise(word: str) -> str:
    """Return advice for a word that is not a command: it may be a task."""
    from docmill.tasks.kinds import NAMES

    return f"It is a task: docmill run {word} SOURCE." if word in NAMES else "`docmill --help` lists them."


class LazyGroup(click.Group):
    """Loads a command's module when the command is called, so that help answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(all_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        listed = find_any_command(cmd_name)
        if listed is None:
            return None
        try:
            command = getattr(importlib.import_module(listed.module), f"{cmd_name}_command")
        except (ImportError, AttributeError) as error:
            if listed.module.startswith("docmill."):
                raise
            raise StorageError(
                f"the command {cmd_name} needs {listed.module}:{cmd_name}_command, which cannot be loaded "
                f"({type(error).__name__}: {error}); repair its feature or uninstall it"
            ) from error
        assert isinstance(command, click.Command)
        return with_quiet(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by its name; refuse an unknown name with the commands that look like it."""
        if not args[0].startswith("-") and find_any_command(args[0]) is None:
            advice = suggest(args[0], all_commands(), _advise(args[0]))
            raise click.UsageError(f"There is no command {args[0]!r}. {advice}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Complete a command's name without loading any command."""
        named = [CompletionItem(name, help=about) for name, (_, about, _) in all_commands().items()]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [item for item in named if item.value.startswith(incomplete)] + options

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. A closed pipe ends the command and is not an error: its reader has seen enough."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            discard_stdout()
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = all_commands()
        width = max(map(len, commands))  # of every section's first column
        for heading in HEADINGS:
            under = [
                (name.ljust(width), command.about) for name, command in commands.items() if command.heading == heading
            ]
            with formatter.section(heading):
                formatter.write_dl(under)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 some documents failed (or doctor found something wrong), 2 bad usage or input, "
    "3 a service is unreachable or the database refuses the command, 4 some records were rejected "
    "and nothing failed, 130 interrupted.",
)
@click.version_option(package_name="docmill")
def docmill() -> None:
    """Run a language model over every document of a corpus, and keep the results in SQL.

    \b
    docmill run summarize notes/ --out summaries.csv
    docmill run translate articles.jsonl --from fr --to en --out en.jsonl
    docmill enqueue embed corpus.csv --model minilm --wait
    docmill search corpus.csv "how to renew a passport"
    """


def main() -> None:
    """Run the `docmill` command."""
    # Imports make some hundred thousand objects and no garbage. Collections took 30 % of a short command's time.
    gc.set_threshold(200_000, 1, 1)
    atexit.register(_skip_last_collection)

    open_closed_streams()
    sys.stderr = ignore_write_errors(sys.stderr)
    hear_signals()
    repeat_dropped_interrupts()
    leave_interrupts_unlogged()
    leave(_run())


def _skip_last_collection() -> None:
    """Let the interpreter end without a collection, unless triton is loaded: it prints pages about leaks then."""
    if "triton" not in sys.modules:
        gc.freeze()


def _keep_near_misses(error: click.ClickException) -> None:
    """Leave out suggestions that are far from the written word: click's own differ in up to two letters of five."""
    possibilities = getattr(error, "possibilities", None)
    written = getattr(error, "option_name", None) or getattr(error, "command_name", None)
    if possibilities and written:
        possibilities[:] = find_similar(written, possibilities)


def _run() -> int:
    """Run the command, print its error if it fails, and return the exit code."""
    try:
        return int(docmill(standalone_mode=False) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _say_interrupted()
    except click.ClickException as error:
        _keep_near_misses(error)
        shown = io.StringIO()  # it may name options, fields and files of others
        error.show(shown)
        warn(shown.getvalue().rstrip("\n"))
        return error.exit_code
    except Exception as error:
        code = exit_code(error)
        if code is None and was_interrupted():
            return _say_interrupted()
        if code is None:
            raise
        warn("\n".join(f"docmill: {line}" for line in sentence(error).splitlines()))
        return code


def _say_interrupted() -> int:
    let_signals_kill()
    warn("Interrupted.")
    return 130
