"""The Python API, which `import docmill` gives: the command line's functions for programs and notebooks."""

from storage.results.status import JobStatus as Status
from worker.api.errors import Error, TimedOut, Unreachable
from worker.api.hits import Hit
from worker.api.job import Job
from worker.api.mill import Mill, connect, run, search

__all__ = ["Error", "Hit", "Job", "Mill", "Status", "TimedOut", "Unreachable", "connect", "run", "search"]
