"""The page of a job's failures, by reason."""

from __future__ import annotations

from docmill.storage.results.marked import group_reasons
from docmill.storage.results.status import read_status
from docmill.worker.explaining.explanation import CLASSES
from docmill.worker.web.page import Asked, Page, Values
from docmill.worker.web.pages.job import shared


def read(asked: Asked) -> Values:
    """Return the failures of each step by reason, most frequent ones first."""
    status = read_status(asked.database, asked.id("job"))
    found = group_reasons(asked.database, status.id)
    classes = {group.reason_class for one in found for group in one.groups if group.status == "failed"}
    return {
        **shared(status),
        "reasons": [one for one in found if one.groups],
        "classes": [name for name in CLASSES if name in classes],
        "advice": CLASSES,
    }


PAGE = Page("/jobs/{job:int}/failures", "failures.html.j2", read)
