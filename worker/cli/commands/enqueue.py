"""`docmill enqueue`: store a source as a job for the workers."""

from __future__ import annotations

from typing import Any

import click

from worker.cli import formatting
from worker.cli.context import open_store, queue_of, settings_from
from worker.cli.declared_options import declared
from worker.cli.exit_codes import OK, exit_code_of
from worker.cli.options import SourceCommand
from worker.cli.printing import answer, print_json, say
from worker.cli.requests import prepare_request, request_of, work_options
from worker.submit.options import JobOptions


@click.command(
    "enqueue",
    cls=SourceCommand,
    epilog="Example: docmill enqueue corpus.csv.gz --task embed --text-field body --wait",
)
@work_options
@declared(JobOptions, "priority")
@click.option("--wait", is_flag=True, help="Wait for the job to end, as `docmill wait` does.")
@click.option("--json", "as_json", is_flag=True, help="Print what was enqueued as JSON.")
def enqueue_command(wait: bool, as_json: bool, **given: Any) -> int:
    """Store SOURCE as a job for the workers, and print the job's number.

    SOURCE is {sources}.

    Exit code 0 means that the documents are durable in SQL, even if Redis is down. The same command again continues
    an unfinished job and adds nothing twice.
    """
    from dataclasses import asdict

    from worker.cli.follow import IngestBar, follow, say_ingested
    from worker.submit.enqueue import enqueue

    settings = settings_from()
    request = request_of(settings, given)
    with open_store(settings) as database:
        prepared = prepare_request(settings, request)
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
