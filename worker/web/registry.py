"""The pages. A page is one module in `worker/web/pages/` and one line here; those with a name are the navigation."""

from __future__ import annotations

from docmill.worker.web import job_changes, pipeline_changes
from docmill.worker.web.page import Change, Page
from docmill.worker.web.pages import document, failures, job, jobs, outputs, pipelines, queue, search, workers

PAGES: tuple[Page, ...] = (
    jobs.PAGE,
    job.PAGE,
    failures.PAGE,
    outputs.FLAGGED,
    outputs.SAMPLED,
    document.PAGE,
    pipelines.PAGE,
    pipelines.ONE,
    workers.PAGE,
    queue.PAGE,
    search.PAGE,
)
CHANGES: tuple[Change, ...] = (*job_changes.CHANGES, *pipeline_changes.CHANGES)
FIRST = jobs.PAGE  # the page at `/`
