"""Consoles and progress bars, by rich, which takes a while to load."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from docmill.worker import logs
from docmill.worker.formatting import printable
from docmill.worker.jobs.listener import Bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class _Console(Console):
    """A console to which no string is markup, and which prints no character that a terminal would obey."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        # In a notebook rich wants another library for a bar; as for a file, the bar's last state is written there.
        super().__init__(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False, force_jupyter=False)

    @property
    def is_terminal(self) -> bool:
        """Return True if the stream is a terminal. Notebooks set FORCE_COLOR, and rich would move a bar there."""
        return not self.file.closed and self.file.isatty()

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _Talk(_Console):
    @property  # type: ignore[misc]  # nobody sets it
    def file(self) -> IO[str]:
        """The stream of talk, on which no write fails."""
        return logs.lossy(cast(TextIO, super().file))


class _Paper(_Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more: the command ends."""
        raise BrokenPipeError


talk = _Talk(stderr=True)
paper = _Paper()
changing_bars = threading.Lock()  # held while a bar comes or goes: another thread prints before or after that


@contextmanager
def bar(name: str, total: float | None = None, *, quiet: bool = False) -> Iterator[_Line]:
    """Open a progress bar on stderr, with a remark beside its count and a note below it.

    Where stderr is no terminal, only the last state is written.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    class NotedProgress(Progress):
        """A bar whose task has a field `note`, whose lines are shown below it and never broken."""

        def get_renderables(self) -> Iterable[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                for line in task.fields.get("note", "").splitlines():
                    yield Text(f"  {line}", no_wrap=True, overflow="ellipsis")

    progress = NotedProgress(
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn() if total is not None else TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[remark]}", markup=False),
        TimeElapsedColumn(),
        console=_Talk(stderr=True, quiet=True) if quiet else talk,
    )
    task = progress.add_task(name, total=total, note="", count="", remark="")
    with changing_bars:
        progress.start()
    try:
        yield _Line(progress, task)
    finally:
        with changing_bars:
            progress.stop()


class _Line(Bar):
    """One line of progress."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(
        self, completed: float, *, total: float | None = None, note: str = "", count: str = "", remark: str = ""
    ) -> None:
        self._progress.update(self._task, completed=completed, total=total, note=note, count=count, remark=remark)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(Text(message))
