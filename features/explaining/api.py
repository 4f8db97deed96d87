"""Explanations for the Python API."""

from __future__ import annotations

from functools import partial
from typing import Any

from docmill.features.explaining.explanation import as_json
from docmill.features.explaining.explanation import explain as explain_result
from docmill.features.explaining.provenance import read_provenance
from docmill.features.explaining.windows import cut
from docmill.worker.api.errors import explained
from docmill.worker.api.job import Job


@explained
def explain(job: Job, document: str, *, step: str | None = None) -> dict[str, Any]:
    """Explain the result of a document, as `docmill explain --json` does. Raises Error."""
    provenance = read_provenance(job.database, job.id, str(document), step)
    return as_json(explain_result(provenance, partial(cut, job.settings.model_folders)))
