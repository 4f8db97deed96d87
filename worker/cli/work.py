"""`docmill run` and `docmill enqueue`: a source becomes a job."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tasks import kinds
from worker import prune_rejected
from worker.cli import formatting, shell_completion
from worker.cli.context import open_broker, open_store, queue_of, settings_from
from worker.cli.exit_codes import OK, SOME_FAILED, SOME_REJECTED
from worker.cli.kind_options import given_options, kind_options
from worker.cli.options import BACKEND, FORMAT, OUT, SourceCommand, check_filled
from worker.cli.output_files import STDOUT, check_out, check_out_is_no_input, write_out
from worker.cli.printing import answer, print_json, say, warn

if TYPE_CHECKING:
    from storage.database import Database
    from storage.status import JobStatus
    from worker.enqueue import Prepared, Request
    from worker.settings import Settings

MOST = 2**31 - 1  # far more than makes sense, far less than a database holds
TASKS = click.Choice(kinds.NAMES)


def work_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to do with which source: the same for every command that takes a source."""
    options = [
        click.argument("source", shell_complete=shell_completion.files),
        click.option("--task", type=TASKS, required=True, help="What to do with every document."),
        click.option(
            "--model",
            shell_complete=shell_completion.models,
            help="A name from `docmill models list`, a folder, or a model hub's id; with --from auto also one "
            "for each language: fr=MODEL,de=MODEL.",
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
        click.option("--limit", type=click.IntRange(1, MOST), help="Only the first N records."),
        click.option("--prune", is_flag=True, help="Mark documents as vanished that the source no longer has."),
        click.option(
            "--prune-max",
            type=click.FloatRange(0, 100),
            metavar="PERCENT",
            help="Stop a reading that would mark more of the source's documents.  [default: 50]",
        ),
        click.option(
            "--prune-rejected",
            type=click.Choice(prune_rejected.CHOICES),
            help="After a rejected record mark nothing, or keep the old version of what was rejected, and mark what "
            "vanished.  [default: stop]",
        ),
        click.option("--strict", is_flag=True, help="Stop at the first record that cannot be read."),
        click.option(
            "--max-failures",
            type=click.FloatRange(0, 100),
            metavar="PERCENT",
            help="Stop the job when more of its texts fail; up to that, failures are no error. Rejected records do "
            "not count: --strict stops at the first.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _request(settings: Settings, given: dict[str, Any]) -> Request:
    """The request in a command's options."""
    from worker.enqueue import Request

    check_filled()
    return Request(options=given_options(given["task"], given, dtype=settings.dtype), **given)


def _prepare(settings: Settings, request: Request, devices: Sequence[str] = ()) -> Prepared:
    from worker.cli import default_models
    from worker.enqueue import prepare

    if request.source == "-" and sys.stdin.isatty():
        say("Reading JSON lines from the keyboard; Ctrl-D ends them.")
    prepared = prepare(settings, request, stdin=sys.stdin.buffer, devices=devices)
    if request.model is None:
        say(default_models.said(request.task, request.source, request.options))
    return prepared


@click.command(
    "run",
    cls=SourceCommand,
    epilog="Example: docmill run articles.jsonl --task translate --from fr --to en --out en.jsonl",
)
@work_options
@click.option("--dry-run", is_flag=True, help="Only say how much there is to do and how long it would take.")
@click.option("--device", help="auto, cpu, cuda, or a list such as cuda:0,cuda:1.")
@BACKEND
@click.option(
    "--out", type=OUT, help="Write the results to a file (as JSON lines, CSV, Parquet or .npy) or to -, stdout."
)
@FORMAT
@click.option("--json", "as_json", is_flag=True, help="Print the job's final status as JSON.")
def run_command(
    dry_run: bool,
    device: str | None,
    backend: str | None,
    out: Path | None,
    file_format: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Run a task over SOURCE, here and now, and show the results.

    SOURCE is {sources}.

    Every text is computed once: what has a result already is not computed again, and an interrupted run is carried
    on by running it again. Needs no server; with DOCMILL_REDIS_URL and DOCMILL_DATABASE_URL set it works on the
    fleet's.
    """
    from storage.export.results import results
    from worker.cli.local import run_here
    from worker.cli.terminal import lines_above_the_bar
    from worker.devices import choose_devices

    settings = settings_from(device=device, backend=backend)
    devices = choose_devices(settings.device)
    if as_json and out == STDOUT:
        raise click.UsageError("--json and --out - both write to stdout; leave one out")
    request = _request(settings, given)
    check_out(out, file_format, task=request.task)
    check_out_is_no_input(out, file_format, request.source)
    with open_store(settings) as database:
        prepared = _prepare(settings, request, devices)
        if dry_run:
            return _dry_run(settings, database, prepared, devices[0], as_json)
        with open_broker(settings) as broker, lines_above_the_bar(settings.log_level):
            status = run_here(settings, database, broker, devices, prepared)
        if out is not None:
            write_out(out, results(database, status.id), file_format, status.documents)
        return _conclude(database, status, out, request.max_failures, as_json)


def _dry_run(settings: Settings, database: Database, prepared: Prepared, device: str, as_json: bool) -> int:
    from dataclasses import asdict

    from worker.cli.follow import IngestBar
    from worker.cli.terminal import lines_above_the_bar
    from worker.dryrun import forecast

    with lines_above_the_bar(settings.log_level), IngestBar(prepared.source) as progress:
        found = forecast(settings, database, prepared, device, progress)
    if not found.documents and not found.rejected:
        say(formatting.no_records(prepared.source.name))
    if (others := formatting.left_out(prepared.source)) is not None:
        say(others)
    code = SOME_REJECTED if found.rejected else OK
    if as_json:
        print_json(asdict(found) | {"spec": asdict(prepared.spec)})
        return code
    answer(f"{found.documents:,} documents, {found.texts:,} unique texts, {found.rejected:,} records rejected")
    answer(f"{found.done_already:,} texts have a result already")
    if found.sampled:
        answer(
            f"{found.texts - found.done_already:,} to do: about {found.tokens_to_do:,} tokens, "
            f"about {formatting.duration(found.seconds)} on {device} "
            f"({found.tokens_per_s:,.0f} tokens/s measured on {found.sampled} texts, "
            f"{formatting.duration(found.load_s)} to load the model)"
        )
    return code


def _conclude(
    database: Database, status: JobStatus, out: Path | None, max_failures: float | None, as_json: bool
) -> int:
    """Say what came of a job: a summary, a few results; and the exit code."""
    from storage.export.results import count_doubtful, samples
    from worker.cli import show

    shown = samples(database, status.id) if out is None and not as_json else []
    if as_json:
        print_json(formatting.as_json(status))
    elif shown:
        show.talk.print(show.samples_table(shown, status.done))
    if status.prior and status.prior == status.texts:
        say(f"Nothing to compute: all {status.texts:,} texts had a result or a failure on record already.")
    (say if status.state == "done" and not status.failed and not status.rejected else warn)(
        formatting.summary(status)
    )
    if shown and "text" in shown[0]:
        say(formatting.doubtful(status.done, *count_doubtful(database, status.id)))
    if out is None and status.done:
        say(f"All results: docmill results {status.id} --out FILE")
    return exit_code_of(status, max_failures)


def exit_code_of(status: JobStatus, max_failures: float | None = None) -> int:
    """Return 0 when every document has its result, and say what to do where not.

    1 says that documents failed, or that the job was stopped; 4 that all is well but for records that were rejected.
    """
    if status.failed or status.rejected:
        listed = f"docmill failures {status.id}"
        retried = f"; to try the failed again: docmill retry {status.id}" if status.failed else ""
        warn(f"What failed, and why: {listed}{retried}")
    bearable = max_failures is not None and status.texts and 100 * status.failed / status.texts <= max_failures
    if status.state != "done" or (status.failed and not bearable):
        return SOME_FAILED
    return SOME_REJECTED if status.rejected else OK


@click.command(
    "enqueue",
    cls=SourceCommand,
    epilog="Example: docmill enqueue corpus.csv.gz --task embed --text-field body --wait",
)
@work_options
@click.option("--priority", type=click.IntRange(-MOST, MOST), default=0, show_default=True, help="Higher goes first.")
@click.option("--wait", is_flag=True, help="Wait for the job to end, as `docmill wait` does.")
@click.option("--json", "as_json", is_flag=True, help="Print what was enqueued as JSON.")
def enqueue_command(wait: bool, as_json: bool, **given: Any) -> int:
    """Store SOURCE as a job for the workers, and print the job's number.

    SOURCE is {sources}.

    The documents are durable in SQL when the command ends with 0, whether Redis is up or not. The same command again
    carries an unfinished job on and adds nothing twice.
    """
    from dataclasses import asdict

    from worker.cli.follow import IngestBar, follow, say_ingested
    from worker.enqueue import enqueue

    settings = settings_from()
    request = _request(settings, given)
    with open_store(settings) as database:
        prepared = _prepare(settings, request)
        with queue_of(settings) as broker, IngestBar(prepared.source) as progress:
            done = enqueue(database, lambda: broker, prepared, progress)
        say_ingested(prepared.source, done)
        if done.deferred:
            say(f"Dispatch deferred: {done.deferred}")
        if not wait:
            if as_json:
                print_json(asdict(done))
            else:
                answer(done.id)
            return OK
        if not as_json:
            answer(done.id)
        status = follow(database, done.id)
        if as_json:
            print_json(formatting.as_json(status))
        else:
            say(formatting.summary(status))
        return exit_code_of(status, request.max_failures)
