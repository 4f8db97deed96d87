"""The tables that a job's results are written as: for programs, and for people who open a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from docmill.storage.core.database import Database
from docmill.storage.outputs.columns import Column, Result
from docmill.storage.results.results import columns, inputs, people_columns, results
from docmill.storage.results.status import JobStatus
from docmill.storage.steps.conditions import Flagged
from docmill.storage.writers.formats import Writer
from docmill.tasks.checks import in_words


@dataclass(frozen=True)
class Table:
    """Rows of a job and their columns. `noun` names a row in messages.

    `has_every_input` says that there are rows for inputs without a result, too.
    """

    rows: Iterator[dict[str, Any]]
    columns: Sequence[Column]
    noun: str
    has_every_input: bool

    def most_rows(self, status: JobStatus) -> int:
        """Return the greatest possible number of rows, for the progress bar."""
        return status.documents + (status.rejected + status.repeated if self.has_every_input else 0)


def read_table(
    database: Database,
    job_id: int,
    writer: Writer,
    *,
    step: str | None = None,
    with_input: bool = False,
    details: bool = False,
    every: bool = False,
    flagged: Flagged | None = None,
) -> Table:
    """Return the table of a job, or of one of its steps, in a format.

    A spreadsheet has a row for every input, with remarks in words, unless `details` asks for the technical columns.
    Other formats have the results, and with `every` all inputs. `flagged` leaves out inputs without a result. Raises
    NotFound.
    """
    is_for_people = writer.for_people and not details
    has_every_input = flagged is None and (every or is_for_people)
    if has_every_input:
        rows = inputs(database, job_id, step=step, with_input=with_input)
        noun = "row" if is_for_people else "input"
    else:
        rows, noun = results(database, job_id, step=step, with_input=with_input, flagged=flagged), "result"
    if is_for_people:
        table = people_columns(database, job_id, step, with_input=with_input, remarks=_remarks)
    else:
        table = columns(database, job_id, step, with_input=with_input, with_outcome=every)
    return Table(rows, table, noun, has_every_input)


def _remarks(row: Result, of_outputs: Sequence[str]) -> str | None:
    """Return why a document has no result, the remarks on its outputs, and their flags in words."""
    lacking = [] if row.get("outcome", "done") == "done" else [row["outcome"]]
    if lacking and row["reason"]:
        lacking = [f"{row['outcome']}: {row['reason'].removesuffix('.')}"]
    of_steps = [f"{name}: {in_words(flag)}" for name, of in row.get("steps", {}).items() for flag in of["flags"]]
    return "; ".join([*lacking, *of_outputs, *map(in_words, row["flags"]), *of_steps]) or None
