"""The cost of dropping results: their number, their tokens, and about how long computing them again takes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from sqlalchemy import and_, func, not_, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, pages, spec_of
from docmill.storage.core.schema import Content, OutcomeRow, Shard, SpecRow, Step
from docmill.storage.deletion import gc, removal
from docmill.storage.deletion.gc import LOOK, Going
from docmill.storage.deletion.paging import Removed

SHARDS = 1_000  # a spec's pace is taken from its latest shards


@dataclass(frozen=True)
class RecomputeCost:
    """Results of one spec: their number, the tokens read and written for them, and about how long that took.

    `seconds` is None if no shard tells how fast the spec was computed.
    """

    spec_id: int
    spec: str
    outcomes: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float | None = None

    def plus(self, outcomes: int, tokens_in: int, tokens_out: int) -> RecomputeCost:
        """Return the cost with further results."""
        sums = self.outcomes + outcomes, self.tokens_in + tokens_in, self.tokens_out + tokens_out
        return RecomputeCost(self.spec_id, self.spec, *sums, self.seconds)


def forecast(
    database: Database,
    *,
    older_than_s: float = 0.0,
    spec_ids: Collection[int] | None = (),
    superseded: bool = False,
) -> tuple[Removed, list[RecomputeCost]]:
    """Return the numbers of texts and results that `gc.drop` and `gc.collect` would remove, and the costs by spec.

    Results of these specs are dropped (None: of all specs). With `superseded` include `removal.remove_versions`.
    Prompts around dropped texts are not counted, nor their results.
    """
    specs = _specs(database)
    wanted = sorted(specs if spec_ids is None else spec_ids)
    going = Going(
        and_(OutcomeRow.spec_id.in_(wanted), gc.is_old(older_than_s), not_(gc.is_worked_on())),
        removal.are_removable(older_than_s) if superseded else None,
    )
    n_contents, costs = 0, {spec_id: RecomputeCost(spec_id, name) for spec_id, name in specs.items()}
    for spec_id in wanted:
        query = select(OutcomeRow.content_id, *_TOKENS, going.outcomes.label("goes"))
        for page in pages(database, query.where(OutcomeRow.spec_id == spec_id), OutcomeRow.content_id, LOOK):
            dropped = [row for row in page if row.goes]
            tokens = (sum(row.tokens_in for row in dropped), sum(row.tokens_out for row in dropped))
            costs[spec_id] = costs[spec_id].plus(len(dropped), *tokens)
    of_texts = select(OutcomeRow.spec_id, func.count(), *(func.sum(column) for column in _TOKENS))
    of_texts = of_texts.where(not_(going.outcomes)).group_by(OutcomeRow.spec_id)
    for contents in pages(database, select(Content.id), Content.id, LOOK):
        with database.read() as transaction:
            transaction.prefer_indexes()
            unneeded = gc.unneeded(transaction, [row.id for row in contents], going)
            n_contents += len(unneeded)
            for first in range(0, len(unneeded), LOOK):
                of_these = OutcomeRow.content_id.in_(unneeded[first : first + LOOK])
                for spec_id, *added in transaction.execute(of_texts.where(of_these)):
                    costs[spec_id] = costs[spec_id].plus(*map(int, added))
    incurred = [replace(cost, seconds=_seconds(database, cost)) for cost in costs.values() if cost.outcomes]
    return Removed(contents=n_contents, outcomes=sum(cost.outcomes for cost in incurred)), incurred


_TOKENS = (OutcomeRow.tokens_in, OutcomeRow.tokens_out)


def _specs(database: Database) -> dict[int, str]:
    query = select(SpecRow.id, *SPEC).order_by(SpecRow.id)
    with database.read() as transaction:
        return {row.id: str(spec_of(row)) for row in transaction.execute(query)}


def _seconds(database: Database, cost: RecomputeCost) -> float | None:
    """Return about how long computing these results took, by the pace of the spec's latest shards."""
    columns = (Shard.started_at, Shard.finished_at, Shard.tokens_in, Shard.n_contents)
    query = (
        select(*columns)
        .join(Step, and_(Step.job_id == Shard.job_id, Step.seq == Shard.step))
        .where(Step.spec_id == cost.spec_id, Shard.state == "done", Shard.started_at.is_not(None))
        .order_by(Shard.id.desc())
        .limit(SHARDS)
    )
    with database.read() as transaction:
        shards = transaction.execute(query).all()
    busy = busy_s((shard.started_at, shard.finished_at) for shard in shards if shard.finished_at is not None)
    tokens, texts = sum(shard.tokens_in for shard in shards), sum(shard.n_contents for shard in shards)
    if not texts or not busy:
        return None
    share: float = cost.tokens_in / tokens if tokens and cost.tokens_in else cost.outcomes / texts
    return busy * share


def busy_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of these spans of time lasted; they may overlap."""
    total, end = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, end))
        end = max(end, ended)
    return total
