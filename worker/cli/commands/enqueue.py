"""`docmill enqueue`."""

from worker.cli.work import enqueue_command

__all__ = ["enqueue_command"]
