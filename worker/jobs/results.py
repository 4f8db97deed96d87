"""Write results to a file or a folder of parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from docmill.storage import fault_points
from docmill.storage.core.database import Database
from docmill.storage.outputs.columns import Column
from docmill.storage.results.parts import ExportProgress, export
from docmill.storage.results.results import Placed, results
from docmill.storage.results.status import JobStatus
from docmill.storage.steps.conditions import Flagged
from docmill.storage.writers import Target
from docmill.worker.formatting import counted, not_written
from docmill.worker.jobs import Bar, Listener

RowT = TypeVar("RowT")

SHOWN_EVERY = 1_000  # documents


def describe_removed(database: Database, status: JobStatus, step: str | None = None) -> str | None:
    """Return a message if a job or step had results and all were removed; else None."""
    done = sum(each.done for each in status.steps if step in {None, each.name})
    if not done or any(results(database, status.id, step=step, limit=1)):
        return None
    how = " (retention, rule results)" if "results" in (status.swept or ()) else ""
    return f"The results of job {status.id} were removed since{how}; run its source again to compute them anew."


class WritingBar:
    """A progress bar for writing, which appears with the first progress."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._stack = ExitStack()
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def along(self, rows: Iterable[RowT], total: int, before: int = 0) -> Iterator[RowT]:
        """Yield the rows of ``total`` documents, after those that were written ``before``."""
        n = before
        for n, row in enumerate(rows, before + 1):
            if n % SHOWN_EVERY == 0:
                self.update(n, total, "documents")
            yield row
            fault_points.reach("export")
        if self._bar is not None:
            self.update(n, total, "documents")

    def update(self, completed: int, total: int, what: str) -> None:
        if self._bar is None:
            self._bar = self._stack.enter_context(self._listener.bar("writing", total=total))
        self._bar.update(completed, total=total, remark=what)


def write_file(
    target: Target,
    rows: Iterable[dict[str, Any]],
    columns: Sequence[Column],
    documents: int,
    noun: str,
    listener: Listener,
) -> int:
    """Write rows to a file and say how many they are. Return their number. Raises FormatUnfit.

    ``documents`` is the greatest possible number of rows, for the progress. ``noun`` names a row in the message.
    """
    with WritingBar(listener) as bar:
        written = target.write(bar.along(rows, documents), columns)
    listener.say(f"Wrote {counted(written, noun)} to {target}.")
    if written.remark:
        listener.say(written.remark)
    return int(written)


@dataclass(frozen=True)
class PartsBar(ExportProgress):
    """A progress bar over the documents of an export in parts."""

    documents: int
    bar: WritingBar
    listener: Listener

    def anew(self, why: str) -> None:
        self.listener.say(f"All parts are written anew: {why}.")

    def remarked(self, said: str) -> None:
        self.listener.say(said)

    def checked(self, parts: int, of: int) -> None:
        self.bar.update(parts, of, "parts checked")

    def along(self, rows: Iterator[Placed], before: int) -> Iterable[Placed]:
        return self.bar.along(rows, self.documents, before)


def write_parts(
    database: Database,
    status: JobStatus,
    target: Target,
    part_documents: int,
    listener: Listener,
    *,
    step: str | None,
    replaced: bool,
    flagged: Flagged | None,
) -> None:
    """Write a job's results as parts (see `storage.results.parts.export`), with a bar, and say what was written."""
    with WritingBar(listener) as bar:
        progress = PartsBar(status.documents, bar, listener)
        written = export(
            database,
            status.id,
            target,
            part_documents,
            step=step,
            replaced=replaced,
            progress=progress,
            flagged=flagged,
        )
    results = counted(written.documents, "result")
    parts = counted(written.parts, "part")
    if not written.new:
        listener.say(f"{target} is complete: {results} in {parts}. Nothing was written.")
    elif written.new < written.parts:
        listener.say(f"Wrote {counted(written.new, 'part')} to {target}, which is complete: {results} in {parts}.")
    else:
        listener.say(f"Wrote {results} to {target}, in {parts}.")
    if flagged is None and (left := not_written(status, written.documents)) is not None:
        listener.say(left)
