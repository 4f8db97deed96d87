"""The page of one document in a job: how its result came to be."""

from __future__ import annotations

from docmill.storage.core.outcomes import DOUBTFUL
from docmill.storage.errors import NoSuchDocument, NoSuchStep
from docmill.storage.results.corpora import find_documents
from docmill.storage.results.provenance import read_provenance
from docmill.storage.results.status import read_status
from docmill.worker.explaining.explanation import Cut, explain
from docmill.worker.reports.marks import Part, excerpt
from docmill.worker.web.page import Asked, NotFound, Page, Values
from docmill.worker.web.pages.job import shared

LONGEST = 20_000  # characters of a text
NOT_CUT = "the page does not load tokenizers; `docmill explain` shows the windows"


def read(asked: Asked) -> Values:
    """Return the explanation of a document's result, without its windows."""
    key, step = asked.query.get("id", ""), asked.query.get("step") or None
    status = read_status(asked.database, asked.id("job"))
    try:
        found = explain(
            read_provenance(asked.database, status.id, key, step), lambda _spec, _text: Cut(problem=NOT_CUT)
        )
    except (NoSuchDocument, NoSuchStep) as error:
        raise NotFound(str(error)) from error
    outcome = found.step.outcome
    kind = asked.database.kind_of(found.step.spec.kind)
    output = "" if outcome is None or outcome.status != "done" else kind.output.shown(outcome.output)
    return {
        **shared(status),
        "found": found,
        "of": found.provenance,
        "outcome": outcome,
        "batch": found.step.batch,
        "given": excerpt([Part(found.step.given or "", False)], LONGEST),
        "output": excerpt([Part(output, False)], LONGEST),
        "doubtful": DOUBTFUL,
        "appearances": find_documents(asked.database, key, found.provenance.corpus),
    }


PAGE = Page("/jobs/{job:int}/document", "document.html.j2", read)
