"""The common part of the commands that hold a job, let it go on, or change its priority."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from docmill.worker.cli.context import open_store, settings_from
from docmill.worker.cli.exit_codes import OK
from docmill.worker.cli.printing import print_json, say

if TYPE_CHECKING:
    from docmill.storage.core.database import Database


def apply(act: Callable[[Database], bool], job: int, became: str, as_json: bool, key: str = "changed") -> int:
    """Apply a change to a job and print its new state; a job that had ended is left as it is."""
    with open_store(settings_from()) as database:
        changed = act(database)
    if as_json:
        print_json({"id": job, key: changed})
    else:
        say(f"Job {job} is {became}." if changed else f"Job {job} had ended already.")
    return OK
