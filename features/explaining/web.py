"""The page of `docmill web` about one document's result."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from docmill.features.explaining.explanation import explain
from docmill.features.explaining.provenance import read_provenance
from docmill.storage.results.corpora import find_documents
from docmill.storage.results.status import read_status
from docmill.tasks.checks import NONE
from docmill.tasks.kinds import Traits
from docmill.worker.web.marks import checks_of, excerpt, mark_output, remark
from docmill.worker.web.page import Page, PageRequest, Values
from docmill.worker.web.pages.jobs import shared
from docmill.worker.web.pages.outputs import write_outputs

LONGEST = 20_000  # characters of a text


def read_document(request: PageRequest) -> Values:
    """Return the explanation of a document's result, without its windows."""
    key, step = request.query.get("id", ""), request.query.get("step") or None
    status = read_status(request.database, request.job)
    explanation = explain(
        read_provenance(request.database, status.id, key, step), lambda _spec, _text: ((), Traits())
    )
    outcome = explanation.step.outcome
    spec = explanation.step.spec
    outputs: Sequence[str] = [""]
    checks = NONE
    if outcome is not None and outcome.status == "done":
        outputs, are_texts = write_outputs(request.database, spec, outcome.output)
        checks = checks_of(request.settings, spec) if are_texts else NONE
    flags = () if outcome is None else outcome.flags
    before, after, remarks = mark_output(explanation.step.text or "", outputs, flags, checks)
    return {
        **shared(status),
        "explanation": explanation,
        "of": explanation.provenance,
        "outcome": outcome,
        "input": excerpt(before, LONGEST),
        "output": excerpt(after, LONGEST),
        "said": [*remarks, *map(remark, explanation.provenance.flags)],
        "command": shlex.join(["docmill", "explain", str(status.id), *(["--"] if key.startswith("-") else []), key]),
        "appearances": find_documents(request.database, key, explanation.provenance.corpus),
    }


PAGE = Page("/jobs/{job}/document", "document.html.j2", read_document, folder=Path(__file__).parent)
