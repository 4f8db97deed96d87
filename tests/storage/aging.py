"""Time in the store: it passes by moving all of the store's times back."""

from __future__ import annotations

from sqlalchemy import Double, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base

DAY_S = 86_400.0
_NO_TIMES = {"max_failures", "max_flagged", "confidence", "mean_logprob", "least_logprob", "due_at"}


def days_pass(database: Database, days: float = 1.0) -> None:
    """Make everything in the store that many days older. When a run is due stays, since it names the run."""

    def work(transaction: object) -> None:
        for table in Base.metadata.tables.values():
            times = [column for column in table.columns if isinstance(column.type, Double)]
            moved = {column.name: column - days * DAY_S for column in times if column.name not in _NO_TIMES}
            if moved:
                transaction.execute(update(table).values(**moved))  # type: ignore[attr-defined]

    database.write(work)
