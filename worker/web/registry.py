"""The pages. A page is one module in `worker/web/pages/` and one line here; those with a name are the navigation."""

from __future__ import annotations

from worker.web.page import Change, Page
from worker.web.pages import jobs

PAGES: tuple[Page, ...] = (jobs.PAGE,)
CHANGES: tuple[Change, ...] = ()
FIRST = jobs.PAGE  # the page at `/`
