"""How things look: progress bars, a job's status in words, results beside their inputs."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.cli.session import STDERR, nobody_reads

if TYPE_CHECKING:
    from rich.progress import Progress

    from storage.intake.ingest import Counts
    from storage.status import JobStatus, StepStatus

SHOWN_REJECTIONS = 5
FORMULA = re.compile(r'[\s"]*[=+@＝＋－＠-]')  # after blanks and quotes too, which spreadsheets take away


class _Talk(Console):
    def on_broken_pipe(self) -> None:
        """Nobody listens any more; the work goes on."""
        nobody_reads(STDERR)


class _Paper(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more: the command ends."""
        raise BrokenPipeError


talk = _Talk(stderr=True, highlight=False)
paper = _Paper(highlight=False)
changing_bars = threading.Lock()  # held while a bar comes or goes: another thread prints before or after that


@contextmanager
def bar(what: str, total: float | None = None) -> Iterator[Bar]:
    """A progress bar on stderr; where that is no terminal, only its last state is written."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn() if total is not None else TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=talk,
    )
    task = progress.add_task(what, total=total, note="", count="")
    with changing_bars:
        progress.start()
    try:
        yield Bar(progress, task)
    finally:
        with changing_bars:
            progress.stop()


class Bar:
    """One line of progress."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress = progress
        self._task = task

    def update(self, completed: float, *, total: float | None = None, note: str = "", count: str = "") -> None:
        self._progress.update(self._task, completed=completed, total=total, note=note, count=count)

    def say(self, message: str) -> None:
        """A line above the bar."""
        self._progress.console.print(Text(message))


def duration(seconds: float) -> str:
    """Seconds as a person says them: 41 s, 12 min, 3 h 05 min, 4 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes / 1440:.0f} days"


def pace(status: JobStatus) -> str:
    """Tokens per second and time left, as far as they are known."""
    parts = [f"{status.tokens_per_s:,.0f} tokens/s"] if status.tokens_per_s else []
    if status.eta_s is not None and status.pending:
        parts.append(f"{duration(status.eta_s)} left")
    return ", ".join(parts)


def ingested(source: str, counts: Counts, *, adopted: bool) -> str:
    """What was read, in one line. Of an adopted job some texts may have been planned before."""
    if not counts.records and not counts.rejected:
        return no_records(source)
    vanished = f", {counts.vanished:,} vanished" if counts.vanished else ""
    return (
        f"{counts.records:,} records: {counts.new:,} new documents, {counts.changed:,} changed, "
        f"{counts.unchanged:,} unchanged, {counts.repeated:,} superseded by a later record of the same id, "
        f"{counts.rejected:,} rejected{vanished}. {counts.planned:,} {'more ' if adopted else ''}texts to compute."
    )


def no_records(source: str) -> str:
    return f"{'Standard input' if source == '-' else source} has no records."


def summary(status: JobStatus) -> str:
    """A job in one line."""
    line = (
        f"Job {status.id} {status.state}: {status.documents:,} documents, {status.texts:,} unique texts: "
        f"{status.done:,} done, {status.failed:,} failed, {status.skipped:,} skipped (blank)"
    )
    if status.pending:
        line += f", {status.pending:,} to do"
    if status.truncated:
        line += f"; {status.truncated:,} outputs stopped at the model's limit (flag output_truncated)"
    if status.rejected:
        line += f"; {status.rejected:,} records rejected"
    if status.reason:
        line += f". {status.reason}"
    return line + "."


def as_json(status: JobStatus) -> dict[str, Any]:
    """A status for machines; the spec as its parts."""
    steps = [asdict(step) | {"spec": asdict(step.spec)} for step in status.steps]
    return asdict(status) | {"texts": status.texts, "spec": asdict(status.spec), "steps": steps}


def status_table(status: JobStatus) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {
        "job": f"{status.id} ({status.state})",
        "task" if len(status.steps) == 1 else "steps": "\n".join(map(_step, status.steps)),
        "priority": str(status.priority) if status.priority else "",
        "corpus": status.corpus,
        "source": status.source,
        "documents": f"{status.documents:,}" if status.documents else f"{status.records:,} records read so far",
        "texts": f"{status.done:,} done, {status.failed:,} failed, {status.skipped:,} skipped, "
        f"{status.pending:,} to do" + (f" ({status.prior:,} had a result before)" if status.prior else ""),
        "truncated": f"{status.truncated:,} outputs stopped at the model's limit" if status.truncated else "",
        "shards": ", ".join(f"{n} {state}" for state, n in sorted(status.shards.items())) or "none",
        "tokens": f"{status.tokens_in:,} read, {status.tokens_out:,} written",
        "pace": pace(status),
        "rejected": f"{status.rejected:,} records" if status.rejected else "",
        "time": duration(status.elapsed_s),
        "reason": status.reason or "",
        "waits for": status.waiting_for or "",
    }
    for name, value in rows.items():
        if value:
            table.add_row(Text(name, style="bold"), Text(value))
    return table


def _step(step: StepStatus) -> str:
    if step.input is None and step.name == step.spec.kind:
        return str(step.spec)
    counts = f"{step.done:,} done, {step.failed:,} failed, {step.blocked:,} blocked, {step.pending:,} to do"
    return f"{step.name}: {step.spec} over {step.input or 'the documents'}: {counts}"


def steps_table(status: JobStatus) -> Table:
    """What became of the texts of each step."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("step", "reads", "task", "done", "failed", "skipped", "blocked", "to do", "had before"):
        table.add_column(heading, justify="left" if heading in {"step", "reads", "task"} else "right")
    for step in status.steps:
        counts = (step.done, step.failed, step.skipped, step.blocked, step.pending, step.prior)
        table.add_row(step.name, step.input or "documents", step.spec.kind, *(f"{count:,}" for count in counts))
    return table


def jobs_table(statuses: list[JobStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("job", "state", "task", "corpus", "done", "failed", "to do", "waits for"):
        table.add_column(heading, justify="right" if heading in {"done", "failed", "to do"} else "left")
    for status in statuses:
        table.add_row(
            str(status.id),
            status.state,
            ", ".join(step.spec.kind for step in status.steps),
            Text(status.corpus, overflow="ellipsis", no_wrap=True),
            f"{status.done:,}",
            f"{status.failed:,}",
            f"{status.pending:,}",
            status.waiting_for or status.reason or "",
        )
    return table


def samples_table(samples: list[dict[str, Any]]) -> Table:
    """A few results side by side with their inputs."""
    table = Table(title=f"{samples[0]['task']}: a few results", title_justify="left", show_lines=True, expand=True)
    table.add_column("document", ratio=2, overflow="fold")
    table.add_column("input", ratio=5)
    table.add_column("output", ratio=5)
    for sample in samples:
        table.add_row(Text(printable(sample["id"])), Text(shorten(sample["input"])), Text(_output(sample)))
    return table


def hits_table(hits: Sequence[tuple[float, str, str]]) -> Table:
    """What a search found, the nearest first: (score, document's id, beginning of its text), a line each."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for heading in ("", "score"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=5 if heading else 2)
    table.add_column("document", ratio=1, overflow="ellipsis", no_wrap=True)
    table.add_column("text", ratio=3, overflow="ellipsis", no_wrap=True)
    for rank, (score, key, text) in enumerate(hits, 1):
        table.add_row(str(rank), f"{score:.3f}", Text(printable(key, keep="")), Text(text))
    return table


def shorten(text: str, width: int = 300) -> str:
    """The text's beginning, with an ellipsis where something follows."""
    text = printable(text)
    return text if len(text) <= width else f"{text[:width].rstrip()} …"


def printable(text: str, keep: str = "\n\t") -> str:
    """The text without control characters, which a terminal would obey: they are shown as U+FFFD."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in keep else c for c in text)


def cell(text: str) -> str:
    """The text for a table that may be pasted into a spreadsheet: an apostrophe keeps a formula from being one."""
    return printable(f"'{text}" if FORMULA.match(text) else text, keep="")


def _output(sample: dict[str, Any]) -> str:
    if "text" in sample:
        return shorten(sample["text"] or "")
    import numpy as np

    vector: Any = np.atleast_2d(sample["vector"])
    numbers = " ".join(f"{value:+.3f}" for value in vector[0][:6])
    windows = f"{len(vector)} windows × " if len(vector) > 1 else ""
    return f"{windows}{vector.shape[1]} numbers: {numbers} …"
