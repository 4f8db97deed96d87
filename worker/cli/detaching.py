"""`docmill run --detach`: start a run that goes on without its terminal, and the run itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli.exit_codes import OK, SOME_FAILED, exit_code
from worker.cli.output_files import STDOUT
from worker.cli.printing import answer, print_json, warn

if TYPE_CHECKING:
    from worker.settings import Settings

Opened = Callable[[int], None]
Ended = Callable[[int], int]


def detach_run(settings: Settings, source: str, out: Path | None, as_json: bool) -> int:
    """Start this command in a process of its own, and say how to follow its job."""
    from dataclasses import asdict

    from worker.process import detached

    if source == "-":
        raise click.UsageError("--detach cannot read standard input, which ends with the terminal; name a file")
    if out == STDOUT:
        raise click.UsageError("--detach cannot write to standard output; give --out a file")
    try:
        run = detached.start(settings.home, sys.argv[1:])
    except detached.NotStarted as error:
        warn(str(error) or "docmill: the detached run ended before it had a job")
        return error.code
    if as_json:
        print_json(asdict(run))
        return OK
    answer(f"Job {run.job} runs in the background. Log: {run.log}")
    answer(f"  docmill attach {run.job}   follow it")
    answer(f"  docmill status {run.job}   see how far it is")
    return OK


@contextmanager
def on_its_own(settings: Settings, detached: tuple[int, str] | None) -> Iterator[tuple[Opened, Ended]]:
    """Yield two functions for a run to call: with its job, once that has a number, and with its exit code.

    A job of which another process is a detached run is refused. If this process is one, its record is kept.
    """
    from worker.process.detached import Reporter, Runs

    if detached is None:
        # Until there is a job the libraries of the store are not needed, and device processes start before them.
        yield lambda job: Runs.of(settings).refuse_second(job), lambda code: code
        return
    reporter = Reporter(Runs.of(settings), *detached)

    def ended(code: int) -> int:
        reporter.ended(code)
        return code

    try:
        yield reporter.opened, ended
    except KeyboardInterrupt:
        reporter.ended(130)
        raise
    except Exception as error:
        reporter.ended(exit_code(error) or SOME_FAILED)
        raise
