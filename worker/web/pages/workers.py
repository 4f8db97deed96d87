"""The page of workers: device, load, what they hold and what they refuse."""

from __future__ import annotations

import time

from docmill.storage.results.worker_list import list_workers
from docmill.worker.web.page import Asked, Page, Values

SLOW = 2.0  # times as long as other workers


def read(asked: Asked) -> Values:
    """Return the workers that were seen last."""
    return {"workers": list_workers(asked.database), "slow": SLOW, "now": time.time()}


PAGE = Page("/workers", "workers.html.j2", read, name="Workers", parts={"rows": read})
