"""`docmill enqueue`: store a source as a job for the workers."""

from __future__ import annotations

from typing import Any

import click

from docmill.worker.cli import formatting
from docmill.worker.cli.context import open_store, settings_from
from docmill.worker.cli.declared_options import declared
from docmill.worker.cli.exit_codes import OK, exit_code_of
from docmill.worker.cli.options import SourceCommand
from docmill.worker.cli.printing import answer, print_json, say
from docmill.worker.cli.requests import request_of, work_options
from docmill.worker.submit.options import JobOptions, KeyOptions


@click.command(
    "enqueue",
    cls=SourceCommand,
    epilog="Example: docmill enqueue corpus.csv.gz --task embed --text-field body --wait",
)
@work_options
@declared(JobOptions, "priority")
@declared(KeyOptions)
@click.option("--wait", is_flag=True, help="Wait for the job to end, as `docmill wait` does.")
@click.option("--json", "as_json", is_flag=True, help="Print what was enqueued as JSON.")
def enqueue_command(wait: bool, as_json: bool, **given: Any) -> int:
    """Store SOURCE as a job for the workers, and print the job's number.

    SOURCE is {sources}.

    Exit code 0 means that the documents are durable in SQL, even if Redis is down. The same command again continues
    an unfinished job and adds nothing twice. With --idempotency-key it returns the same job also when the job has
    ended.
    """
    from dataclasses import asdict

    from docmill.worker.cli.follow import follow
    from docmill.worker.cli.ingesting import ingested

    settings = settings_from()
    request = request_of(settings, given)
    with open_store(settings) as database:
        done = ingested(settings, database, request)
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
