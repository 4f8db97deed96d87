"""A request from the options of a command that takes a source: `docmill run` and `docmill enqueue`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from tasks import kinds
from worker.cli import shell_completion
from worker.cli.kind_options import given_options, kind_options
from worker.cli.options import check_filled
from worker.cli.printing import say
from worker.submit import prune_rejected

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.submit.request import Prepared, Request


MOST = 2**31 - 1  # far more than makes sense, far less than a database holds


def work_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command with a source has: what to do with it, and how to read it."""
    options = [
        click.argument("source", shell_complete=shell_completion.files),
        click.option("--task", type=click.Choice(kinds.NAMES), required=True, help="Task for every document."),
        click.option(
            "--model",
            shell_complete=shell_completion.models,
            help="A name from `docmill models list`, a folder, or a hub id; with --from auto also a model for "
            "each language: fr=MODEL,de=MODEL.",
        ),
        click.option("--revision", help="A hub model's branch, tag or commit.  [default: main]"),
        *kind_options(),
        click.option("--corpus", help="Corpus that the documents belong to.  [default: the source's path]"),
        click.option("--text-field", default="text", show_default=True, help="Field that holds the text."),
        click.option("--id-field", default="id", show_default=True, help="Field that holds the document's id."),
        click.option(
            "--encoding",
            metavar="NAME",
            help="Encoding of texts without a byte order mark, such as cp1252.  [default: utf-8]",
        ),
        click.option("--limit", type=click.IntRange(1, MOST), help="Read only the first N records."),
        click.option("--prune", is_flag=True, help="Mark documents that the source no longer has as vanished."),
        click.option(
            "--prune-max",
            type=click.FloatRange(0, 100),
            metavar="PERCENT",
            help="Stop if --prune would mark more than this share of the source's documents.  [default: 50]",
        ),
        click.option(
            "--prune-rejected",
            type=click.Choice(prune_rejected.CHOICES),
            help="After a rejected record: stop marks nothing; keep leaves the rejected document as it was, and "
            "marks the vanished documents.  [default: stop]",
        ),
        click.option("--strict", is_flag=True, help="Stop at the first record that cannot be read."),
        click.option(
            "--max-failures",
            type=click.FloatRange(0, 100),
            metavar="PERCENT",
            help="Stop the job when more than this share of its texts fails; fewer failures are no error. Rejected "
            "records do not count: --strict stops at the first.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def request_of(settings: Settings, given: dict[str, Any]) -> Request:
    """Return the request in a command's options."""
    from worker.submit.request import Request

    check_filled()
    return Request(options=given_options(given["task"], given, dtype=settings.dtype), **given)


def prepare_request(settings: Settings, request: Request, devices: Sequence[str] = ()) -> Prepared:
    """Check a request, and say which default model it takes. Raises what `worker.submit.request.prepare` does."""
    from worker.cli import default_models
    from worker.submit.request import prepare

    if request.source == "-" and sys.stdin.isatty():
        say("Reading JSON lines from the keyboard; Ctrl-D ends them.")
    prepared = prepare(settings, request, stdin=sys.stdin.buffer, devices=devices)
    if request.model is None:
        say(default_models.said(request.task, request.source, request.options))
    return prepared
