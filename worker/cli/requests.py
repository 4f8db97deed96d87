"""A request from the options of a command that takes a source: `docmill run` and `docmill enqueue`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from docmill.tasks import kinds
from docmill.worker.cli import shell_completion
from docmill.worker.cli.declared_options import Command, declared, kind_options
from docmill.worker.cli.options import Choice, check_filled
from docmill.worker.cli.printing import say
from docmill.worker.submit.options import (
    DocumentOptions,
    EscalationOptions,
    JobOptions,
    ReadingOptions,
    Request,
    Work,
    checked,
)

if TYPE_CHECKING:
    from docmill.storage.core.specs import Spec
    from docmill.worker.settings import Settings
    from docmill.worker.submit.request import Opened, Prepared


def work_options(command: Command) -> Command:
    """Add the options that every command with a source has: what to do with it, and how to read it."""
    options = [
        click.argument("source", shell_complete=shell_completion.files),
        click.option("--task", type=Choice(kinds.NAMES), required=True, help="Task for every document."),
        declared(Work, "model", completed=shell_completion.models),
        declared(Work, "revision"),
        kind_options,
        declared(EscalationOptions),
        declared(Work, "corpus"),
        declared(ReadingOptions),
        declared(DocumentOptions),
        declared(JobOptions, "max_failures", "max_flagged"),
    ]
    for add in reversed(options):
        command = add(command)
    return command


def request_of(settings: Settings, given: dict[str, Any]) -> Request:
    """Return the request in a command's options. Raises BadOption."""
    check_filled()
    options = given_options(given["task"], given, dtype=settings.dtype)
    return checked(options, given)  # Click's ranges let nan pass


def given_options(task: str, given: dict[str, Any], *, dtype: str) -> kinds.KindOptions:
    """Take the options of kinds out of a command's, and return those of the task.

    ``dtype`` is the precision if none was given. Raises BadOption.
    """
    values = {name: given.pop(name) for name in kinds.OPTIONS}
    chosen = {name: value for name, value in values.items() if value not in (None, ())}
    return kinds.options(task, **{"dtype": dtype, **chosen})


def prepare_request(
    settings: Settings,
    request: Request,
    devices: Sequence[str] = (),
    opened: Opened | None = None,
    on_spec: Callable[[Spec], None] = lambda _: None,
) -> Prepared:
    """Check a request, and say which default model it takes. Raises what `worker.submit.request.prepare` does."""
    from docmill.worker.cli import default_models
    from docmill.worker.submit.request import prepare

    if request.source == "-" and sys.stdin.isatty():
        say("Reading JSON lines from the keyboard; Ctrl-D ends them.")
    say_conversions(settings, [request.model, request.escalate])
    stdin = sys.stdin.buffer if request.source == "-" else None  # a notebook has none
    prepared = prepare(settings, request, stdin, devices, opened, on_spec)
    for told in prepared.not_read:
        say(told)
    if request.model is None:
        say(default_models.said(request.task, request.source, request.options))
    return prepared


def say_conversions(settings: Settings, models: Iterable[str | None]) -> None:
    """Say which models are converted now, since that takes a while. A model that is refused is passed over."""
    from docmill.tasks.errors import TaskError
    from docmill.tasks.specs.pinning import to_convert

    for model in filter(None, dict.fromkeys(models)):
        with suppress(TaskError):
            if to_convert(model, models_dir=settings.models_dir, cache_dir=settings.cache_dir):
                say(f"Converting {model} (once; a minute for a small model) ...")
