"""`docmill doctor`: check this installation."""

from __future__ import annotations

from dataclasses import asdict

import click

from docmill.worker.cli.context import settings_from
from docmill.worker.cli.exit_codes import OK, SOME_FAILED
from docmill.worker.cli.options import JSON
from docmill.worker.cli.printing import answer, print_json


@click.command("doctor", epilog="Example: docmill doctor --json")
@JSON
def doctor_command(as_json: bool) -> int:
    """Check this installation, and say how to repair it.

    Checks the database and its schema, Redis, their clocks, models, device, disk and extras. Changes nothing. Exit
    code 0: every check passed; 1: a check failed.
    """
    from docmill.worker.doctor import examine

    findings = examine(settings_from())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            answer(f"{'ok ' if finding.ok else 'BAD'} {finding.what:<11} {finding.detail}")
            if finding.advice:
                answer(f"    {'':<11} {finding.advice}")
    return OK if all(finding.ok for finding in findings) else SOME_FAILED
