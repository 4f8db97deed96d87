"""The Python API, which `import docmill` gives: the command line's functions for programs and notebooks."""

from docmill.storage.results.status import JobStatus as Status
from docmill.worker.api.errors import Error, TimedOut, Unreachable
from docmill.worker.api.job import Job
from docmill.worker.api.mill import Hit, Mill, connect, run, run_async, search

__all__ = [
    "Error",
    "Hit",
    "Job",
    "Mill",
    "Status",
    "TimedOut",
    "Unreachable",
    "connect",
    "run",
    "run_async",
    "search",
]
