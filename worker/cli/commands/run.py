"""`docmill run`."""

from worker.cli.work import run_command

__all__ = ["run_command"]
