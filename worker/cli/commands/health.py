"""`docmill health`: check this machine's workers."""

from __future__ import annotations

from dataclasses import asdict

import click

from docmill.worker.cli.context import open_store, settings_from
from docmill.worker.cli.exit_codes import OK, SOME_FAILED
from docmill.worker.cli.options import JSON, Number
from docmill.worker.cli.printing import print_json, say


@click.command("health", epilog="Example, for a container: HEALTHCHECK CMD docmill health")
@click.option(
    "--within",
    "within_s",
    type=Number(1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest time without a sign of life from a worker.",
)
@click.option("--host", help="Machine to check.  [default: this machine]")
@JSON
def health_command(within_s: float, host: str | None, as_json: bool) -> int:
    """Check that this machine's workers live and take work from the queue.

    Each device process must have a working device, and must hold work or have heard from the queue lately. Exit code
    0: every process passes; 1: a process fails, or there is none; 3: the database does not answer.
    """
    import platform

    from docmill.storage.leases.health import health

    with open_store(settings_from()) as database:
        found = health(database, host or platform.node(), within_s)
    if as_json:
        print_json(asdict(found))
    elif found.problem is not None:
        say(f"Unhealthy: {found.problem}.")
    else:
        say(f"Healthy: {found.workers} {'worker' if found.workers == 1 else 'workers'}.")
    return OK if found.problem is None else SOME_FAILED
