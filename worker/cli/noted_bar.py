"""A progress bar with a line below it, so that both fit a terminal of 80 columns. rich takes a while to load."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.progress import Progress
from rich.text import Text


class NotedProgress(Progress):
    """A bar whose task has a field `note`, which is shown below it, on one line."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if note := task.fields.get("note"):
                yield Text(f"  {note}", no_wrap=True, overflow="ellipsis")
