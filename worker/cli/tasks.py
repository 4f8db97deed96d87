"""Commands with a subcommand for each kind of task, such as `docmill run TASK SOURCE`.

The subcommands derive from the registry of kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from textwrap import wrap
from typing import Any

import click

from docmill.storage.readers.registry import describe_sources
from docmill.tasks import kinds
from docmill.tasks.errors import hint
from docmill.tasks.kinds.options import Layer, key
from docmill.worker.cli.options import check_filled, complete_files, complete_models, declared
from docmill.worker.cli.printing import with_quiet
from docmill.worker.settings import Settings
from docmill.worker.submit.options import (
    DocumentOptions,
    EscalationOptions,
    JobOptions,
    ReadingOptions,
    Request,
    Work,
    checked,
)

SHOWS_ALL = "docmill.shows_all"
SOURCES = "a file, a folder, a quoted pattern, a URL, a database query, or - for JSON lines on standard input"


def _show_all(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Show the help with every option, and end."""
    if wanted and not context.resilient_parsing:
        context.meta[SHOWS_ALL] = True
        click.echo(context.get_help())
        context.exit()


HELP_ALL = click.Option(
    ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_all, help="Explain every option."
)


class TaskCommand(click.Command):
    """The command of one task."""

    def sections(self, context: click.Context) -> dict[Layer, list[click.Parameter]]:
        """Return the options by their sections in the help."""
        options = [param for param in self.get_params(context) if isinstance(param, click.Option)]
        by_layer: dict[Layer, list[click.Parameter]] = {layer: [] for layer in Layer}
        for option in options:
            by_layer[getattr(option, "layer", Layer.MORE)].append(option)
        return by_layer

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"SOURCE is {describe_sources() if SHOWS_ALL in ctx.meta else SOURCES}.")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for layer, options in self.sections(ctx).items():
            is_named_only = layer is Layer.MORE and SHOWS_ALL not in ctx.meta
            with formatter.section(f"{layer} (--help-all explains them)" if is_named_only else layer):
                if is_named_only:
                    names = ", ".join(max(option.opts, key=len) for option in options)
                    for line in wrap(names, formatter.width - formatter.current_indent, break_on_hyphens=False):
                        formatter.write(f"{'':{formatter.current_indent}}{line}\n")
                else:
                    formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. An option that only other tasks have is refused as such."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            word = error.option_name.removeprefix("--")
            names = [kind.name for kind in kinds.KINDS if word in _words(kind)]
            if names:
                raise click.UsageError(
                    f"--{word} has no meaning for {self.name}, only for {_listed(names)}.", ctx
                ) from error
            raise


def _words(kind: kinds.TaskKind) -> list[str]:
    return [key(name, field) for name, field in kind.options.model_fields.items()]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


class TaskGroup(click.Group):
    """A command whose subcommands are the kinds of task.

    Each has the options of its kind and `params`, which all have. ``callback`` is called with the task's name and the
    values of the options. ``ending`` ends the example in each help.
    """

    def __init__(
        self, name: str, *, params: list[click.Parameter], callback: Callable[..., Any], ending: str, **attrs: Any
    ) -> None:
        super().__init__(name, subcommand_metavar="TASK SOURCE [OPTIONS]", options_metavar=None, **attrs)
        self._shared = params
        self._work = callback
        self._ending = ending

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*kinds.NAMES]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in kinds.NAMES:
            return None
        kind = kinds.kind(cmd_name)
        work = partial(self._work, task=cmd_name)
        for add in reversed(_options(kind)):
            add(work)
        made = click.command(
            cmd_name,
            cls=TaskCommand,
            help=kind.summary,
            epilog=f"\b\nExample:\n  docmill {self.name} {cmd_name} {kind.example} {self._ending}",
        )(work)
        made.params += [*self._shared, HELP_ALL]
        return with_quiet(made)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Tasks"):
            formatter.write_dl([(kind.name, kind.summary) for kind in kinds.KINDS])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a task by its name; an unknown name is refused with the tasks that were nearly written."""
        if args[0] not in kinds.NAMES and not ctx.resilient_parsing:
            advice = hint(args[0], kinds.NAMES, f"Write the task before the source: docmill {self.name} TASK SOURCE.")
            raise click.UsageError(f"There is no task {args[0]!r}. {advice}", ctx)
        return super().resolve_command(ctx, args)


def _options(kind: kinds.TaskKind) -> list[Callable[[Callable[..., Any]], object]]:
    """Return what adds the options of every command with a source: what to do with it, and how to read it."""
    own = vars(kind.options).get("__annotations__", {})
    return [
        click.argument("source", shell_complete=complete_files),
        declared(Work, "model", completed=complete_models),
        declared(Work, "revision"),
        declared(kind.options, *sorted(kind.options.model_fields, key=lambda name: name not in own)),
        declared(EscalationOptions),
        declared(Work, "corpus"),
        declared(ReadingOptions),
        declared(DocumentOptions),
        declared(JobOptions, "max_failures", "max_flagged"),
    ]


def request_of(settings: Settings, task: str, options: dict[str, Any]) -> Request:
    """Return the request in the options of a task's command. Raises BadOption."""
    check_filled()
    of_kind = given_options(task, options, dtype=settings.dtype)
    return checked(of_kind, {"task": task, **options})  # Click's ranges let nan pass


def given_options(task: str, options: dict[str, Any], *, dtype: str) -> kinds.KindOptions:
    """Take the options of a kind out of a command's, and return them.

    ``dtype`` is the precision if none was given. Raises BadOption.
    """
    values = {name: options.pop(name) for name in kinds.kind(task).options.model_fields}
    chosen = {name: value for name, value in values.items() if value not in (None, ())}
    return kinds.options(task, **{"dtype": dtype, **chosen})
