"""`docmill top`: watch jobs, lanes, workers and failures in the terminal."""

from __future__ import annotations

import shutil
import sys

import click

from docmill.features.top import LIBRARY
from docmill.features.top.frame import plain_frame, read_view, view_as_json
from docmill.worker.cli.options import JSON, settings_from
from docmill.worker.cli.printing import OK, answer, print_json
from docmill.worker.stores import open_store


@click.command("top", epilog="Example: docmill top --once")
@click.option("--once", is_flag=True, help="Print one plain frame and end.")
@JSON
def top_command(once: bool, as_json: bool) -> int:
    """Watch jobs, lanes, workers and failures, read again every two seconds.

    Arrow keys choose a job and Enter shows it; f lists the latest failures; q quits. Without a terminal, the command
    prints one frame. NO_COLOR turns colors off.
    """
    with open_store(settings_from()) as database:
        if as_json:
            print_json(view_as_json(read_view(database)))
        elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            answer(plain_frame(read_view(database), shutil.get_terminal_size().columns))
        else:
            LIBRARY.require("The live view (`docmill top --once` prints one frame)")
            from docmill.features.top.screens import TopApp

            TopApp(lambda: read_view(database)).run()
    return OK
