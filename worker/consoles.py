"""Consoles, progress bars and tables, by rich, which takes a while to load."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from docmill.worker import logs
from docmill.worker.formatting import counted, local_time, printable, shorten
from docmill.worker.jobs import Bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from docmill.storage.outputs.output_types import OutputType, Params
    from docmill.storage.results.job_counts import FlagCounts
    from docmill.storage.results.status import JobStatus


class _Console(Console):
    """A console to which no string is markup, and which prints no character that a terminal would obey.

    No write to stderr fails. If nobody reads stdout any more, BrokenPipeError ends the command.
    """

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        # In a notebook rich wants another library for a bar; as for a file, the bar's last state is written there.
        super().__init__(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False, force_jupyter=False)

    @property
    def is_terminal(self) -> bool:
        """Return True if the stream is a terminal. Notebooks set FORCE_COLOR, and rich would move a bar there."""
        return not self.file.closed and self.file.isatty()

    @property  # type: ignore[misc]  # nobody sets it
    def file(self) -> IO[str]:
        return logs.ignore_write_errors(cast(TextIO, super().file)) if self.stderr else super().file

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


talk = _Console(stderr=True)
paper = _Console()
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
        console=_Console(stderr=True, quiet=True) if quiet else talk,
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


SHORTEST = 8  # columns of the shortest name
SHOWN_CHARACTERS = 200  # of a sample's input and output
_IF_ANY = {"skipped", "blocked", "not selected", "escalated"}


class NameCell:
    """A name or a source on one line; if it is too long, an ellipsis replaces its middle.

    The beginning of a path or a query shows its place, and the end its name.
    """

    def __init__(self, name: str) -> None:
        self._name = " ".join(printable(name).split())

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = cell_len(self._name)
        return Measurement(min(width, SHORTEST), width).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(cut_middle(self._name, options.max_width), no_wrap=True, overflow="crop")


def cut_middle(name: str, width: int) -> str:
    """Return the name in at most `width` columns, without its middle where it is longer."""
    if cell_len(name) <= width:
        return name
    ending = (width - 1) // 2
    end = name[-ending:] if ending else ""
    while cell_len(end) > ending:
        end = end[1:]
    return f"{set_cell_size(name, width - 1 - cell_len(end)).rstrip()}…{end}"


def table(*headings: str, names: Collection[str] = (), numbers: Collection[str] = ()) -> Table:
    """Return a table without lines. Columns of names shrink to fit, columns of numbers are right-aligned."""
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in headings:
        made.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=heading not in names)
    return made


def steps_table(status: JobStatus, flags: Mapping[str, FlagCounts]) -> Table:
    """Return a table with the counts of each step's texts, and of documents that the steps' conditions left out.

    Some columns, such as those of texts that were not computed, are left out if all their counts are 0.
    """
    counts = {
        "done": [step.done for step in status.steps],
        "failed": [step.failed for step in status.steps],
        "skipped": [step.skipped for step in status.steps],
        "blocked": [step.blocked for step in status.steps],
        "not selected": [flags[step.name].not_selected if step.name in flags else 0 for step in status.steps],
        "to do": [step.pending for step in status.steps],
        "escalated": [0 if step.escalated is None else step.escalated.texts for step in status.steps],
        "had before": [step.prior for step in status.steps],
    }
    shown = [name for name, column in counts.items() if any(column) or name not in _IF_ANY]
    made = table("step", "reads", "task", *shown, names={"step", "reads"}, numbers=shown)
    for place, step in enumerate(status.steps):
        reads = NameCell(step.input or "documents")
        made.add_row(NameCell(step.name), reads, step.spec.kind, *(f"{counts[name][place]:,}" for name in shown))
    return made


def jobs_table(statuses: Sequence[JobStatus]) -> Group:
    """Return a table with a line for each job, and below it the reasons why jobs wait or stopped."""
    count_columns = ("done", "failed", "to do")
    headings = ("job", "state", "made", "task", "corpus", *count_columns)
    made = table(*headings, names={"task", "corpus"}, numbers=count_columns)
    reasons = []
    for status in statuses:
        kinds = ", ".join(step.spec.kind for step in status.steps) + (" (migration)" if status.is_backfill else "")
        counts = (f"{count:,}" for count in (status.done, status.failed, status.pending))
        when = local_time(status.created_at)
        made.add_row(str(status.id), status.state, when, NameCell(kinds), NameCell(status.corpus), *counts)
        if reason := status.waiting_for or status.reason:
            reasons.append(Text(printable(f"Job {status.id}: {reason}")))
    return Group(made, *([Text(), *reasons] if reasons else []))


def samples_table(samples: Sequence[dict[str, Any]], documents: int, output: OutputType, params: Params) -> Table:
    """Return the results of a few of a job's documents below their inputs, in columns that fit any terminal."""
    made = Table(
        title=f"{samples[0]['task']}: {len(samples)} of {counted(documents, 'document')}",
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=False,
        expand=True,  # or a title longer than the rows is broken
    )
    made.add_column(no_wrap=True)
    made.add_column(ratio=1)
    for sample in samples:
        made.add_row("document", NameCell(sample["id"]), style="bold")
        made.add_row("input", _on_few_lines(sample["input"]))
        made.add_row("output", _on_few_lines(output.shown(sample, params)), end_section=True)
        made.add_row()
    return made


def _on_few_lines(text: str) -> Text:
    """Return the text's beginning without line breaks, about three lines of a terminal of 80 columns."""
    return Text(shorten(" ".join(text.split()), SHOWN_CHARACTERS))


def hits_table(hits: Sequence[tuple[float, str, str]]) -> Table:
    """Return a table of hits, nearest first, from (score, document's id, beginning of its text)."""
    made = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for heading in ("", "score"):
        made.add_column(heading, justify="right", no_wrap=True, min_width=5 if heading else 2)
    made.add_column("document", ratio=1, overflow="ellipsis", no_wrap=True)
    made.add_column("text", ratio=3, overflow="ellipsis", no_wrap=True)
    for rank, (score, key, text) in enumerate(hits, 1):
        made.add_row(str(rank), f"{score:.3f}", Text(printable(key, keep="")), Text(text))
    return made
