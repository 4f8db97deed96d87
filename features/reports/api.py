"""Reports for the Python API."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from docmill.features.reports.facts import gather
from docmill.storage.results.status import read_status
from docmill.worker.api.errors import Error, explained
from docmill.worker.api.job import Job
from docmill.worker.extras import EXTRAS
from docmill.worker.prices import read_prices
from docmill.worker.web.marks import checks_of


@explained
def report(job: Job, path: str | os.PathLike[str], *, with_text: bool = True) -> None:
    """Write the page of HTML that `docmill report` writes, with the job's cost if DOCMILL_PRICES is set.

    Without `with_text` it has no texts, ids of documents and reasons of failures. Raises Error.
    """
    EXTRAS["report"].require("A report")
    from docmill.features.reports.page import write

    status = read_status(job.database, job.id)
    facts = gather(job.database, status, with_text=with_text, checks_of=partial(checks_of, job.settings))
    try:
        write(Path(path), facts, read_prices(job.settings).cost_of(status))
    except OSError as error:
        raise Error(f"cannot write {os.fspath(path)}: {error.strerror}") from error
