"""Reports for the Python API."""

from __future__ import annotations

import os
from pathlib import Path

from docmill.worker.api.errors import Error, explained
from docmill.worker.api.job import Job
from docmill.worker.extras import EXTRAS
from docmill.worker.jobs import Listener


@explained
def report(job: Job, path: str | os.PathLike[str], *, with_text: bool = True) -> None:
    """Write the page of HTML that `docmill report` writes, with the job's cost if DOCMILL_PRICES is set.

    Without `with_text` it has no texts, ids of documents and reasons of failures. Raises Error.
    """
    EXTRAS["report"].require("A report")
    from docmill.features.reports.page import write

    try:
        write(job.settings, job.database, job.id, Path(path), with_text=with_text, listener=Listener())
    except OSError as error:
        raise Error(f"cannot write {os.fspath(path)}: {error.strerror}") from error
