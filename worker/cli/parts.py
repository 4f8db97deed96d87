"""Results as a folder of parts: how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import click

from storage.database import Database
from storage.export.parts import Progress, export
from storage.export.results import Placed
from storage.status import JobStatus
from storage.writers import FormatUnfit, Target
from worker import faultpoints
from worker.cli.session import say
from worker.cli.show import Bar, bar

SHOWN_EVERY = 1_000  # documents


class PartsBar(Progress):
    """A progress bar over a job's documents, which is there once there is something to show."""

    def __init__(self, documents: int) -> None:
        self._documents = documents
        self._stack = ExitStack()
        self._bar: Bar | None = None

    def __enter__(self) -> PartsBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def anew(self, why: str) -> None:
        say(f"All parts are written anew: {why}.")

    def checked(self, parts: int, of: int) -> None:
        self._update(parts, of, "parts checked")

    def along(self, rows: Iterator[Placed], before: int) -> Iterable[Placed]:
        n = before
        for n, row in enumerate(faultpoints.along("export", rows), before + 1):
            if n % SHOWN_EVERY == 0:
                self._update(n, self._documents, "documents")
            yield row
        self._update(n, self._documents, "documents")

    def _update(self, completed: int, total: int, what: str) -> None:
        if self._bar is None:
            self._bar = self._stack.enter_context(bar("writing", total=total))
        self._bar.update(completed, total=total, note=what)


def write_parts(
    database: Database,
    status: JobStatus,
    target: Target,
    part_documents: int,
    *,
    step: str | None = None,
    replaced: bool = False,
) -> None:
    """Write a job's results as parts (see `storage.export.parts.export`), with a bar, and say what came of it."""
    try:
        with PartsBar(status.documents) as progress:
            written = export(
                database, status.id, target, part_documents, step=step, replaced=replaced, progress=progress
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


def _parts(n: int) -> str:
    return "1 part" if n == 1 else f"{n:,} parts"
