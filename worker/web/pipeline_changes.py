"""Changes of pipelines that the page's forms post."""

from __future__ import annotations

from urllib.parse import quote

from docmill.storage.errors import NoSuchPipeline
from docmill.storage.pipelines import pipelines
from docmill.worker.web.page import Asked, Change, Changed, NotFound


def run_now(asked: Asked) -> Changed:
    """Make the run that workers make when a pipeline is due, under the same rule for a run that still goes.

    The form names when the schedule was looked at, so that a form that is sent twice makes one run.
    """
    name = asked.path["name"]
    path = f"/pipelines/{quote(name, safe='')}"
    try:
        stored = pipelines.get(asked.database, name)
    except NoSuchPipeline as error:
        raise NotFound(str(error)) from error
    found = next((one for one in pipelines.scheduled(asked.database) if one.id == stored.id), None)
    if found is None:
        said = "Workers run a pipeline that has a schedule; docmill pipeline run FILE runs this one."
        return Changed(path, f"Nothing was changed: {name} has no schedule. {said}")
    seen = asked.form.get("looked_at") == repr(found.looked_at)
    run_id = pipelines.fire(asked.database, found, found.now) if seen else None
    made = next((run for run in pipelines.history(asked.database, name) if run.id == run_id), None)
    if made is None:
        return Changed(path, f"Nothing was changed: another run of {name} was made meanwhile.")
    if made.state == "skipped":
        return Changed(path, f"Run {made.id} of {name} was skipped: {made.reason}.")
    return Changed(path, f"Run {made.id} of {name} is due now. A live worker begins it.")


CHANGES: tuple[Change, ...] = (Change("/pipelines/{name}/run", run_now),)
