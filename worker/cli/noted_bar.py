"""A progress bar with a line below it, so that both fit a terminal of 80 columns. rich takes a while to load."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.progress import Progress
from rich.text import Text


class NotedProgress(Progress):
    """A bar whose task has a field `note`, whose lines are shown below it and never broken."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if note := task.fields.get("note"):
                for line in note.splitlines():
                    yield Text(f"  {line}", no_wrap=True, overflow="ellipsis")
