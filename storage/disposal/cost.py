"""The results that a collection would drop, and what they took: computing them again takes about as much."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import and_, func, select

from storage.database import Database
from storage.disposal import collection
from storage.disposal.collection import LOOK, Collected
from storage.rows import SPEC, spec_of
from storage.schema import Content, OutcomeRow, Shard, SpecRow, Step

SHARDS = 1_000  # of a spec, the latest of which tell its pace


@dataclass(frozen=True)
class Cost:
    """Results of one spec: how many, the tokens that were read and written for them, and about how long that took.

    `seconds` is None where no shard tells how fast the spec was computed.
    """

    spec_id: int
    spec: str
    outcomes: int
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float | None = None


def of_dropping(database: Database, *, older_than_s: float, spec_ids: Collection[int] | None = None) -> list[Cost]:
    """Return by spec what `collection.drop` would drop, where that is anything.

    What nothing needs after that goes too, and is not counted here.
    """
    query = select(SpecRow.id, *SPEC).order_by(SpecRow.id)
    with database.read() as connection:
        specs = connection.execute(query if spec_ids is None else query.where(SpecRow.id.in_(spec_ids))).all()
    costs = [_of_spec(database, row, older_than_s) for row in specs]
    return [cost for cost in costs if cost.outcomes]


def _of_spec(database: Database, row: Any, older_than_s: float) -> Cost:
    goes = and_(collection.is_old(older_than_s), ~collection.is_worked_on()).label("goes")
    columns = (OutcomeRow.content_id, OutcomeRow.tokens_in, OutcomeRow.tokens_out, goes)
    query = select(*columns).where(OutcomeRow.spec_id == row.id).order_by(OutcomeRow.content_id).limit(LOOK)
    cost, last = Cost(row.id, str(spec_of(row)), 0), 0
    while True:
        with database.read() as connection:
            page = connection.execute(query.where(OutcomeRow.content_id > last)).all()
        going = [outcome for outcome in page if outcome.goes]
        cost = replace(
            cost,
            outcomes=cost.outcomes + len(going),
            tokens_in=cost.tokens_in + sum(outcome.tokens_in for outcome in going),
            tokens_out=cost.tokens_out + sum(outcome.tokens_out for outcome in going),
        )
        if len(page) < LOOK:
            return replace(cost, seconds=_seconds(database, cost)) if cost.outcomes else cost
        last = page[-1].content_id


def _seconds(database: Database, cost: Cost) -> float | None:
    """About how long computing these results took, by the pace of the spec's latest shards."""
    columns = (Shard.started_at, Shard.finished_at, Shard.tokens_in, Shard.n_contents)
    query = (
        select(*columns)
        .join(Step, and_(Step.job_id == Shard.job_id, Step.seq == Shard.step))
        .where(Step.spec_id == cost.spec_id, Shard.state == "done", Shard.started_at.is_not(None))
        .order_by(Shard.id.desc())
        .limit(SHARDS)
    )
    with database.read() as connection:
        shards = connection.execute(query).all()
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


def of_collecting(database: Database) -> Collected:
    """Return what `collection.collect` would remove, as the store is now."""
    total, last = Collected(), 0
    following = select(Content.id).order_by(Content.id).limit(LOOK)
    while True:
        with database.read() as connection:
            database.look_up(connection)
            page = connection.scalars(following.where(Content.id > last)).all()
            unneeded = collection.unneeded(database, connection, page)
            query = select(func.count()).select_from(OutcomeRow)
            of_these = [unneeded[first : first + LOOK] for first in range(0, len(unneeded), LOOK)]
            outcomes = sum(connection.scalar(query.where(OutcomeRow.content_id.in_(ids))) or 0 for ids in of_these)
        total += Collected(len(unneeded), outcomes)
        if len(page) < LOOK:
            return total
        last = page[-1]
