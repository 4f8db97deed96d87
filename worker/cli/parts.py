"""Write results as a folder of parts, with a progress bar and a summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import click

from docmill.storage.core.database import Database
from docmill.storage.core.flags import Flagged
from docmill.storage.results.parts import Progress, export
from docmill.storage.results.results import Placed
from docmill.storage.results.status import JobStatus
from docmill.storage.writers import Target
from docmill.storage.writers.base import FormatUnfit
from docmill.worker import fault_points
from docmill.worker.cli.formatting import not_written
from docmill.worker.cli.printing import say
from docmill.worker.cli.show import WritingBar


@dataclass(frozen=True)
class PartsBar(Progress):
    """A progress bar over the documents of an export in parts."""

    documents: int
    shown: WritingBar

    def anew(self, why: str) -> None:
        say(f"All parts are written anew: {why}.")

    def remarked(self, said: str) -> None:
        say(said)

    def checked(self, parts: int, of: int) -> None:
        self.shown.update(parts, of, "parts checked")

    def along(self, rows: Iterator[Placed], before: int) -> Iterable[Placed]:
        return self.shown.along(fault_points.along("export", rows), self.documents, before)


def write_parts(
    database: Database,
    status: JobStatus,
    target: Target,
    part_documents: int,
    *,
    step: str | None = None,
    replaced: bool = False,
    flagged: Flagged | None = None,
) -> None:
    """Write a job's results as parts (see `storage.results.parts.export`), with a bar, and say what came of it."""
    try:
        with WritingBar() as shown:
            progress = PartsBar(status.documents, shown)
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
    except FormatUnfit as error:
        raise click.BadParameter(str(error), param_hint="--out") from error
    results = f"{written.documents:,} results"
    parts = _parts(written.parts)
    if not written.new:
        say(f"{target} is complete: {results} in {parts}. Nothing was written.")
    elif written.new < written.parts:
        say(f"Wrote {_parts(written.new)} to {target}, which is complete: {results} in {parts}.")
    else:
        say(f"Wrote {results} to {target}, in {parts}.")
    if flagged is None and (left := not_written(status, written.documents)) is not None:
        say(left)


def _parts(n: int) -> str:
    return "1 part" if n == 1 else f"{n:,} parts"
