"""The pages of outputs: the flagged ones of a job, samples, and the hits of a search."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, NoReturn

from docmill.storage.core.database import Database
from docmill.storage.core.specs import DOUBTFUL, Spec
from docmill.storage.errors import StorageError
from docmill.storage.outputs.output_types import TEXTS
from docmill.storage.results.corpora import find_documents
from docmill.storage.results.job_counts import count_flags
from docmill.storage.results.marked import Cursor, flagged_page
from docmill.storage.results.results import samples
from docmill.storage.results.status import JobStatus, StepStatus, read_status
from docmill.storage.search.search import StoredHit, list_searchable
from docmill.storage.steps.conditions import OUTPUT_REMARKS, order_flags
from docmill.tasks.checks import NONE, Checks, meaning
from docmill.tasks.errors import TaskError
from docmill.worker.errors import WorkerError
from docmill.worker.jobs import Listener
from docmill.worker.jobs.search import SearchOptions, open_search, query_record
from docmill.worker.web.marks import TextPart, checks_of, excerpt, mark_output
from docmill.worker.web.page import Page, PageRefused, PageRequest, Values
from docmill.worker.web.pages.jobs import last_part, shared

ROWS = 10
MOST_COUNTED = 20_000  # documents of a job
SAMPLES = 12
LOOKED_AT = 200  # documents from whose results samples are chosen
LONGEST = 800  # characters of a text in a list
FLAGS = (*sorted(DOUBTFUL), *sorted(OUTPUT_REMARKS))
_CURSOR = re.compile("([01])-([01])-([0-9]{1,18})")  # a `marked.Cursor` in an address


def read_flagged(request: PageRequest) -> Values:
    """Return a page of outputs that carry flags, or one flag, of one step."""
    status = read_status(request.database, request.job)
    counts = _count_flags(request.database, status)
    step = _step(request, status, counts)
    flag = request.choice("flag", dict.fromkeys(FLAGS))
    after = _cursor(request, step)
    results, following = flagged_page(request.database, status.id, step.name, flag=flag, after=after, limit=ROWS)
    checks = checks_of(request.settings, step.spec)
    return {
        **shared(status),
        "pairs": [_pair(request.database, step, result, checks) for result in results],
        "following": None if following is None else "-".join(map(str, following)),
        "step": step,
        "flag": flag,
        "counts": None if counts is None else counts[step.name],
        "flags": FLAGS,
        "meaning": meaning,
        "is_first": request.query.get("after") is None,
    }


def read_samples(request: PageRequest) -> Values:
    """Return a few results of a job's last step."""
    status = read_status(request.database, request.job)
    results = samples(request.database, status.id, SAMPLES, of=LOOKED_AT)
    last = status.steps[-1]
    pairs = []
    for result in results:
        by_step = result["steps"] if len(status.steps) > 1 else {last.name: result}
        if last.name in by_step:
            whole = {**by_step[last.name], "id": result["id"], "input": find_input(last, result, by_step)}
            pairs.append(_pair(request.database, last, whole))
    return {**shared(status), "pairs": pairs, "step": last}


def find_input(step: StepStatus, result: Mapping[str, Any], by_step: Mapping[str, Any]) -> str:
    """Return the text that a step reads: the document's, or that of the step before."""
    return str(result["input"] if step.input is None else by_step.get(step.input, {}).get("text", ""))


def write_outputs(database: Database, spec: Spec, result: Mapping[str, Any]) -> tuple[Sequence[str], bool]:
    """Return a result's outputs for people, and True if they are texts, which checks can read."""
    if isinstance(text := result.get("text"), str):
        return result.get(TEXTS) or [text], True
    return [database.kind_of(spec.kind).output.shown(result, spec.params)], False


def _pair(database: Database, step: StepStatus, result: Mapping[str, Any], checks: Checks = NONE) -> Values:
    """Return a document's input and outputs in parts, some of them marked, with remarks."""
    outputs, are_texts = write_outputs(database, step.spec, result)
    checks = checks if are_texts else NONE
    before, after, remarks = mark_output(str(result["input"]), outputs, result["flags"], checks)
    parts = {"input": excerpt(before, LONGEST), "output": excerpt(after, LONGEST)}
    return parts | {"document": str(result["id"]), "remarks": remarks}


def _step(request: PageRequest, status: JobStatus, counts: Mapping[str, Mapping[str, int]] | None) -> StepStatus:
    """Return the step of the request; by default the last step whose outputs carry flags, or else the last one."""
    named = {step.name: step for step in status.steps}
    flagged = [name for name in named if counts and counts[name]]
    return named[request.choice("step", named) or (flagged or list(named))[-1]]


def _count_flags(database: Database, status: JobStatus) -> dict[str, dict[str, int]] | None:
    """Return each step's numbers of results with each flag; None for a job that is too large to count them for a
    page."""
    if max(status.documents, status.records) > MOST_COUNTED:  # while the source is read, only records are counted
        return None
    return {name: order_flags(step.by_flag) for name, step in count_flags(database, status.id).items()}


def _cursor(request: PageRequest, step: StepStatus) -> Cursor | None:
    place_text = request.query.get("after")
    if place_text is None:
        return None
    match = _CURSOR.fullmatch(place_text)
    if match is None or int(match[1]) > (0 if step.escalated is None else 1):
        raise PageRefused(f"after={place_text} in the address is not a place. Follow a link of the page instead.")
    return int(match[1]), int(match[2]), int(match[3])


TOP = 10
MOST_CHARS = 2_000  # of a text, or of an id
SHOWN_CHARS = 400  # of a hit
_ONE_SEARCH = Lock()  # each search loads the model
PATIENCE_S = 5.0  # for another search


def read_search(request: PageRequest) -> Values:
    """Return the corpora, the hits if a text was given, and the documents with an id if it was given."""
    corpora = list_searchable(request.database)
    corpus, text = request.query.get("corpus", ""), request.query.get("text", "").strip()
    if len(text) > MOST_CHARS:
        raise PageRefused(f"The text has {len(text):,} characters; a search takes at most {MOST_CHARS:,}.")
    key = request.query.get("id", "")
    if len(key) > MOST_CHARS:
        raise PageRefused(f"The id has {len(key):,} characters; the page looks up at most {MOST_CHARS:,}.")
    values: dict[str, object] = {"corpora": corpora, "corpus": corpus, "text": text, "found": None, "problem": None}
    values |= {"last_part": last_part, "key": key, "documents": find_documents(request.database, key) if key else []}
    if text and corpora and request.from_another_site:
        values["problem"] = "This search is a link of another site. Press Search to load the model and to search."
    elif text and corpora:
        try:
            values["found"] = search(request, corpus or corpora[0], text)
        except (StorageError, TaskError, WorkerError) as error:
            values["problem"] = str(error)
    return values


def search(request: PageRequest, corpus: str, text: str) -> Values:
    """Return the documents of a corpus that are nearest to a text, and the job whose vectors were compared.

    Raises StorageError, TaskError and WorkerError.
    """
    options = SearchOptions(top=TOP)
    if not _ONE_SEARCH.acquire(timeout=PATIENCE_S):
        raise WorkerError("Another search is running. Try again.")
    try:
        with open_search(request.settings, request.database, corpus, options, _refuse, Listener()) as opened:
            [(_, hits)] = opened.answers([query_record(text, "The text")])
    finally:
        _ONE_SEARCH.release()
    searched = opened.searched
    return {
        "job_id": searched.job_id,
        "step": searched.way[-1].name,
        "hits": [(hit, _mark_passage(hit)) for hit in hits],
    }


def _mark_passage(hit: StoredHit) -> list[TextPart]:
    """Return a part of the hit's text, with a mark on the passage that matched."""
    start, end = hit.passage or (0, 0)
    is_part = end - start < len(hit.text)
    parts = [(hit.text[:start], False), (hit.text[start:end], is_part), (hit.text[end:], False)]
    return excerpt([TextPart(text, is_marked) for text, is_marked in parts if text], SHOWN_CHARS)


def _refuse(where: str, reason: str) -> NoReturn:
    raise WorkerError(f"{where} was not embedded: {reason}")


PAGES = (
    Page("/jobs/{job}/flagged", "flagged.html.j2", read_flagged),
    Page("/jobs/{job}/samples", "samples.html.j2", read_samples),
    Page("/search", "search.html.j2", read_search, name="Search"),
)
