"""Time in the store: it passes by moving all of the store's times back."""

from __future__ import annotations

from sqlalchemy import Double, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base
from docmill.storage.core.transaction import Transaction

DAY_S = 86_400.0
_NO_TIMES = {"max_failures", "max_flagged", "confidence", "mean_logprob", "least_logprob", "due_at"}


def days_pass(database: Database, days: float = 1.0) -> None:
    """Make everything in the store that many days older. When a run is due stays, since it names the run."""
    step_clock(database, days * DAY_S)


def step_clock(database: Database, by_s: float, *but: str) -> None:
    """Move the store's clock, as seen from the times in its tables, of which these columns stay as they are."""

    def work(transaction: Transaction) -> None:
        for table in Base.metadata.tables.values():
            times = [column for column in table.columns if isinstance(column.type, Double)]
            moved = {one.name: one - by_s for one in times if one.name not in {*_NO_TIMES, *but}}
            if moved:
                transaction.execute(update(table).values(moved))

    database.write(work)
