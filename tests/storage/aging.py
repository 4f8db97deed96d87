"""Time in the store: it passes when all times in the store are moved back."""

from __future__ import annotations

from sqlalchemy import Double, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base
from docmill.storage.core.transaction import Transaction

DAY_S = 86_400.0
_NO_TIMES = {"max_failures", "max_flagged", "confidence", "mean_logprob", "least_logprob", "due_at"}


def days_pass(database: Database, days: float = 1.0) -> None:
    """Make everything in the store older by some days. The time at which a run is due stays: it names the run."""
    step_clock(database, days * DAY_S)


def step_clock(database: Database, by_s: float, *excepted: str) -> None:
    """Move the clock of the store forward: subtract seconds from all times in its tables, except in some columns."""

    def work(transaction: Transaction) -> None:
        for table in Base.metadata.tables.values():
            times = [column for column in table.columns if isinstance(column.type, Double)]
            moved = {time.name: time - by_s for time in times if time.name not in {*_NO_TIMES, *excepted}}
            if moved:
                transaction.execute(update(table).values(moved))

    database.write(work)
