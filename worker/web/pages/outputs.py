"""The pages of a job's outputs: the flagged ones, and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from docmill.storage.core.database import Database
from docmill.storage.results.job_counts import count_flags
from docmill.storage.results.marked import Cursor, flagged_page
from docmill.storage.results.results import samples
from docmill.storage.results.status import JobStatus, StepStatus, read_status
from docmill.storage.steps.conditions import list_flags, order_flags
from docmill.tasks.checks import NONE, Checks, meaning
from docmill.worker.web.marks import TextPart, checks_of, excerpt, mark_output
from docmill.worker.web.page import Page, PageRefused, PageRequest, Values
from docmill.worker.web.pages.jobs import shared

ROWS = 10
MOST_COUNTED = 20_000  # documents of a job
SAMPLES = 12
LOOKED_AT = 200  # results from which samples are chosen
LONGEST = 800  # characters of a text in a list


@dataclass(frozen=True)
class ShownOutput:
    """A document's input and output in parts, of which some are marked, with remarks (`marks.MarkedOutput`)."""

    document: str
    input: Sequence[TextPart]
    output: Sequence[TextPart]
    remarks: Sequence[tuple[bool, str]]


def read_flagged(request: PageRequest) -> Values:
    """Return a page of outputs that carry flags, or one flag, of one step."""
    status = read_status(request.database, request.id("job"))
    step = _step(request, status)
    flag = request.choice("flag", dict.fromkeys(list_flags()))
    page = flagged_page(request.database, status.id, step.name, flag=flag, after=_cursor(request, step), limit=ROWS)
    checks = checks_of(request.settings.models_dir, request.settings.cache_dir)(step.spec)
    return {
        **shared(status),
        "pairs": [_pair(request.database, step, result, checks) for result in page.results],
        "following": None if page.after is None else "-".join(map(str, page.after)),
        "step": step,
        "flag": flag,
        "counts": _counts(request.database, status, step),
        "flags": list_flags(),
        "meaning": meaning,
        "is_first": request.query.get("after") is None,
    }


def read_samples(request: PageRequest) -> Values:
    """Return a few results of a job's first step."""
    status = read_status(request.database, request.id("job"))
    results = samples(request.database, status.id, SAMPLES, of=LOOKED_AT)
    last = status.steps[-1]
    pairs = []
    for result in results:
        by_step = result["steps"] if len(status.steps) > 1 else {last.name: result}
        if last.name in by_step:
            whole = {**by_step[last.name], "id": result["id"], "input": _input(last, result, by_step)}
            pairs.append(_pair(request.database, last, whole))
    return {**shared(status), "pairs": pairs, "step": last}


def _input(step: StepStatus, result: Mapping[str, Any], by_step: Mapping[str, Any]) -> str:
    """Return the text that a step reads: the document's, or that of the step before."""
    return str(result["input"] if step.input is None else by_step.get(step.input, {}).get("text", ""))


def _pair(database: Database, step: StepStatus, result: Mapping[str, Any], checks: Checks = NONE) -> ShownOutput:
    text, source, spec = result.get("text"), str(result["input"]), step.spec
    output = text if isinstance(text, str) else database.kind_of(spec.kind).output.shown(result, spec.params)
    found = mark_output(source, output, result["flags"], checks if output == text else NONE)
    return ShownOutput(
        str(result["id"]), excerpt(found.input, LONGEST), excerpt(found.output, LONGEST), found.remarks
    )


def _step(request: PageRequest, status: JobStatus) -> StepStatus:
    named = {step.name: step for step in status.steps}
    return named[request.choice("step", named) or status.steps[-1].name]


def _counts(database: Database, status: JobStatus, step: StepStatus) -> dict[str, int] | None:
    """Return the numbers of results with each flag; None for a job that is too large to count them for a page."""
    if status.documents > MOST_COUNTED:
        return None
    return order_flags(count_flags(database, status.id)[step.name].by_flag)


def _cursor(request: PageRequest, step: StepStatus) -> Cursor | None:
    place_text = request.query.get("after")
    if place_text is None:
        return None
    parts = place_text.split("-")
    if len(parts) != 3 or not all(part.isdecimal() and part.isascii() and len(part) <= 18 for part in parts):
        raise PageRefused(f"after={place_text} in the address is no place. Follow a link of the page instead.")
    place, lap, content = map(int, parts)
    if place > (0 if step.escalated is None else 1) or lap > 1:
        raise PageRefused(f"after={place_text} in the address is no place. Follow a link of the page instead.")
    return place, lap, content


PAGES = (
    Page("/jobs/{job:int}/flagged", "flagged.html.j2", read_flagged),
    Page("/jobs/{job:int}/samples", "samples.html.j2", read_samples),
)
