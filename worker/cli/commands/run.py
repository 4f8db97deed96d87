"""`docmill run` and `docmill enqueue`: store a source as a job, and compute it here or leave it to workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from docmill.storage import writers
from docmill.storage.readers.registry import describe_sources
from docmill.tasks import kinds
from docmill.tasks.errors import suggest
from docmill.tasks.kinds.options import Layer, key, parsed
from docmill.worker import formatting
from docmill.worker.cli.options import (
    BACKEND,
    DETAILS,
    DEVICE,
    ENDPOINT,
    FORMAT,
    OUT,
    PRICE,
    WITH_INPUT,
    LayeredOption,
    complete_files,
    complete_models,
    declared,
)
from docmill.worker.cli.printing import (
    OK,
    SOME_REJECTED,
    answer,
    exit_code_of,
    listen,
    print_json,
    say,
    say_rich,
    with_quiet,
    write_out,
)
from docmill.worker.engines import devices_for
from docmill.worker.formatting import counted
from docmill.worker.jobs.outputs import STDOUT, check_kinds, check_takes_inputs, require_target
from docmill.worker.jobs.run import run_request
from docmill.worker.prices import Cost, Price, Prices, read_prices
from docmill.worker.settings import Settings, load_settings
from docmill.worker.submit.options import EscalationOptions, JobOptions, ReadingOptions, Request, Work
from docmill.worker.terminal import warn

if TYPE_CHECKING:
    from docmill.storage.core.database import Database
    from docmill.storage.results.status import JobStatus
    from docmill.worker.submit.request import Prepared


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
            advice = suggest(
                args[0], kinds.NAMES, f"Write the task before the source: docmill {self.name} TASK SOURCE."
            )
            raise click.UsageError(f"There is no task {args[0]!r}. {advice}", ctx)
        return super().resolve_command(ctx, args)


def _options(kind: kinds.TaskKind) -> list[Callable[[Callable[..., Any]], object]]:
    """Return decorators that add the argument SOURCE, and the options of a kind and of reading a source."""
    own = vars(kind.options).get("__annotations__", {})
    return [
        click.argument("source", shell_complete=complete_files),
        declared(Work, "model", completed=complete_models),
        declared(Work, "revision"),
        declared(kind.options, *sorted(kind.options.model_fields, key=lambda name: name not in own)),
        declared(EscalationOptions),
        declared(Work, "corpus"),
        declared(ReadingOptions),
        declared(Work, "leave_out"),
        declared(JobOptions, "max_failures", "max_flagged", "max_cost"),
    ]


def request_of(settings: Settings, task: str, options: dict[str, Any]) -> Request:
    """Return the request in the options of a task's command. Raises BadOption."""
    of_kind = given_options(task, options, dtype=settings.dtype)
    return parsed(Request, {"options": of_kind, "task": task, **options})


def given_options(task: str, options: dict[str, Any], *, dtype: str) -> kinds.KindOptions:
    """Take the options of a kind out of a command's, and return them.

    ``dtype`` is the precision if none was given. Raises BadOption.
    """
    values = {name: options.pop(name) for name in kinds.kind(task).options.model_fields}
    chosen = {name: value for name, value in values.items() if value not in (None, ())}
    return kinds.options(task, **{"dtype": dtype, **chosen})


@click.command(
    "run",
    cls=TaskGroup,
    ending="--out out.csv",
    epilog="Example: docmill run summarize notes/ --out out.csv; `docmill run TASK --help` shows a task's options.",
)
@declared(Request, "request_id")
@click.option("--dry-run", is_flag=True, help="Only estimate the work and its time; compute nothing.")
@DEVICE
@BACKEND
@ENDPOINT
@PRICE
@click.option(
    "--out",
    cls=LayeredOption,
    layer=Layer.COMMON,
    type=OUT,
    metavar="FILE",
    help="Write the results to a file; its suffix says the format. - is standard output, as JSON lines.",
)
@FORMAT
@WITH_INPUT
@DETAILS
@click.option("--json", "as_json", is_flag=True, help="Print the job's final status as JSON.")
@click.option("--web", is_flag=True, help="Show the job in a browser, during the run and then until Ctrl-C.")
def run_command(
    task: str,
    dry_run: bool,
    device: str | None,
    backend: str | None,
    endpoint: str | None,
    price: Price | None,
    out: Path | None,
    file_format: str | None,
    with_input: bool,
    details: bool,
    as_json: bool,
    web: bool,
    **options: Any,
) -> int:
    """Run TASK over SOURCE, here and now, and show the results.

    docmill computes every text once, and the same command continues an interrupted run. You need no server. If you
    set DOCMILL_REDIS_URL and DOCMILL_DATABASE_URL, the command uses the fleet's queue and database.
    """
    settings = load_settings(device=device, backend=backend, endpoint=endpoint)
    devices = devices_for(settings.device, options.get("model"), *filter(None, [options.get("escalate")]))
    if as_json and out == STDOUT:
        raise click.UsageError("--json and --out - both write to stdout; leave one out")
    request = request_of(settings, task, options)
    prices = read_prices(settings)
    if file_format is not None and (command := writers.writer_of(file_format).only_of) is not None:
        raise click.BadParameter(f"it has the answers of `{command}`; choose another", param_hint="--format")
    target = require_target(out, file_format, source=request.source)
    check_kinds(target, [request.task])
    for option, is_given in (("--with-input", with_input), ("--details", details)):
        if is_given and out is None:
            raise click.UsageError(f"{option} is for a file: name it with --out (- is stdout)")
    if with_input:
        check_takes_inputs(target)
    if dry_run and web:
        raise click.UsageError("--dry-run makes no job for --web to show; leave one out")
    if dry_run:
        from docmill.worker.jobs.submission import prepare_request
        from docmill.worker.stores import open_store

        with open_store(settings) as database:
            prepared = prepare_request(settings, request, listen(), devices)
            prices = prices.of_model(prepared.spec.model, price)
            return _dry_run(settings, database, prepared, devices[0], prices, as_json)
    page: AbstractContextManager[None] = nullcontext()
    if web:
        from docmill.worker.cli.commands.web import page_beside

        page = page_beside(settings)
    with (
        page,
        run_request(settings, request, devices, listen(settings)) as (database, status),
    ):
        if out is not None:
            from docmill.worker.exports import read_table

            table = read_table(database, status.id, target.writer, with_input=with_input, details=details)
            written = write_out(table.rows, target, table.columns, table.most_rows(status), table.noun)
            if (left := formatting.not_written(status, written)) is not None:
                say(left)
        cost = prices.of_model(status.spec.model, price).cost_of(status)
        return _conclude(database, status, out, request.max_failures, cost, as_json)


def _dry_run(
    settings: Settings, database: Database, prepared: Prepared, device: str, prices: Prices, as_json: bool
) -> int:
    from docmill.worker.jobs.follow import describe_left_out, ingest_bar
    from docmill.worker.submit.dry_run import forecast

    listener = listen(settings)
    with listener.computing(), ingest_bar(listener, prepared.source) as progress:
        expected = forecast(settings, database, prepared, device, progress)
    if not expected.documents and not expected.rejected:
        say(formatting.no_records(prepared.source.name))
    if (others := describe_left_out(prepared.source)) is not None:
        say(others)
    cost = prices.cost([(prepared.spec.model, expected.tokens_to_do, expected.tokens_out_to_do)])
    code = SOME_REJECTED if expected.rejected else OK
    if as_json:
        print_json(asdict(expected) | {"spec": asdict(prepared.spec)} | formatting.cost_as_json(cost))
        return code
    answer(
        f"{formatting.documents(expected.documents)}, {counted(expected.texts, 'unique text')}, "
        f"{counted(expected.rejected, 'record')} rejected"
        + (f", {expected.superseded:,} superseded by a later record of the same id" if expected.superseded else "")
    )
    for line in formatting.work_ahead(expected, device):
        answer(line)
    if expected.sampled and cost is not None:
        answer(f"its tokens cost about {cost} ({expected.tokens_out_to_do:,} of them written)")
    if any(step.leaves_out for step in prepared.steps):
        answer("documents that --leave-out leaves out are counted, too: they are found when the source is read")
    if expected.escalated_s is not None:
        tenth = formatting.duration(expected.escalated_s / 10)
        answer(f"escalating a tenth of them adds about {tenth}")
    return code


def _conclude(
    database: Database,
    status: JobStatus,
    out: Path | None,
    max_failures: float | None,
    cost: Cost | None,
    as_json: bool,
) -> int:
    """Print the summary of a job and a few of its results. Return the exit code."""
    from docmill.storage.results.job_counts import count_flags
    from docmill.storage.results.results import samples
    from docmill.worker.consoles import samples_table

    shown = samples(database, status.id) if out is None and not as_json else []
    if as_json:
        print_json(formatting.as_json(status) | formatting.cost_as_json(cost))
    elif shown:
        output = database.kind_of(status.spec.kind).output
        say_rich(samples_table(shown, status.documents, output, status.spec.params))
    if status.prior and status.prior == status.texts:
        which = "the text was" if status.texts == 1 else f"all {status.texts:,} texts were"
        say(f"Nothing to compute: {which} computed, failed or skipped before.")
    (say if status.state == "done" and not status.failed and not status.rejected else warn)(
        formatting.summary(status, cost)
    )
    if shown and "text" in shown[0]:
        counts = count_flags(database, status.id)[status.steps[0].name]
        if counts.doubtful:
            say(formatting.doubtful(status.documents, counts))
            say(f"Only the doubtful: docmill results {status.id} --flagged")
    if out is None and status.done:
        say(f"All results: docmill results {status.id} --out FILE")
    return exit_code_of(status, max_failures)


@click.command(
    "enqueue",
    cls=TaskGroup,
    ending="--wait",
    epilog="Example: docmill enqueue embed corpus.csv --wait; `docmill enqueue TASK --help` shows a task's options.",
)
@declared(JobOptions, "priority")
@declared(Request, "idempotency_key", "request_id")
@click.option(
    "--wait",
    cls=LayeredOption,
    layer=Layer.COMMON,
    is_flag=True,
    help="Wait for the job to end, as `docmill status --wait` does.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was enqueued as JSON.")
def enqueue_command(task: str, wait: bool, as_json: bool, **options: Any) -> int:
    """Store SOURCE as a job of TASK for the workers, and print the job's number.

    Exit code 0 means that the documents are durable in SQL, even if Redis is down. The same command again continues
    an unfinished job and adds nothing twice. With --idempotency-key it returns the same job, even if the job has
    ended.
    """
    from docmill.worker.jobs.follow import follow
    from docmill.worker.jobs.submission import submit
    from docmill.worker.stores import open_store

    settings = load_settings()
    request, listener = request_of(settings, task, options), listen()
    with open_store(settings) as database:
        done = submit(settings, database, request, listener)
        if not as_json:
            answer(done.id)
        elif not wait:
            print_json(asdict(done))
        if not wait:
            return OK
        status = follow(database, done.id, listener)
        if as_json:
            print_json(formatting.as_json(status))
        else:
            say(formatting.summary(status))
        return exit_code_of(status, request.max_failures)
