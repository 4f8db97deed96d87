"""Drop results that are old and that nothing needs (`storage.deletion.needed`), a page per transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import pages
from docmill.storage.core.schema import OutcomeRow, SpecRow
from docmill.storage.core.transaction import Transaction
from docmill.storage.deletion import gc
from docmill.storage.deletion.ages import RESULTS
from docmill.storage.deletion.budget import Budget
from docmill.storage.deletion.gc import LOOK, PAGE, Collected
from docmill.storage.deletion.needed import needed_specs


def drop_unneeded(database: Database, older_than_s: float, budget: Budget | None = None) -> Collected:
    """Drop old results of specs that nothing needs, and then the texts that nothing needs. Return their number.

    The next call continues an interrupted one.
    """
    budget = budget or Budget()
    with database.read() as transaction:
        specs = unneeded_specs(transaction, older_than_s)
    total = Collected()
    for spec_id in specs:
        query = select(OutcomeRow.content_id, gc.is_old(older_than_s).label("old"))
        for page in pages(database, query.where(OutcomeRow.spec_id == spec_id), OutcomeRow.content_id, LOOK):
            old = [row.content_id for row in page if row.old]
            for first in range(0, len(old), PAGE):
                if budget.is_spent():
                    return total
                some = old[first : first + budget.page(PAGE)]
                removed = database.write(
                    lambda transaction, spec=spec_id, some=some: _drop(transaction, spec, some, older_than_s)  # type: ignore[misc]
                )
                budget.spend(removed.contents + removed.outcomes)
                total += removed
    return total


def _drop(transaction: Transaction, spec_id: int, contents: Sequence[int], older_than_s: float) -> Collected:
    gc.begin(transaction)
    if spec_id in needed_specs(transaction, older_than_s):  # a job came to need it since it was looked at
        return Collected()
    return gc.drop_of(transaction, spec_id, contents, rule=RESULTS)


def unneeded_specs(transaction: Transaction, older_than_s: float) -> list[int]:
    """Return the specs whose old results nothing needs, in order."""
    every = {*transaction.scalars(select(SpecRow.id))}
    return sorted(every - needed_specs(transaction, older_than_s))


def are_droppable(transaction: Transaction, older_than_s: float) -> ColumnElement[bool]:
    """Return the condition for a result that `drop_unneeded` would drop now."""
    specs = unneeded_specs(transaction, older_than_s)
    return and_(OutcomeRow.spec_id.in_(specs), gc.is_old(older_than_s), ~gc.is_worked_on())
