"""The cost of dropping results: their number, their tokens, and about how long computing them again takes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, and_, func, not_, select

from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, pages, spec_of
from docmill.storage.core.schema import Content, OutcomeRow, Prompt, Shard, SpecRow, Step
from docmill.storage.deletion import gc, versions
from docmill.storage.deletion.gc import LOOK, NOTHING, Going
from docmill.storage.deletion.paging import Removed
from docmill.storage.ingest.pruning import Seen

SHARDS = 1_000  # a spec's pace is taken from its latest shards


@dataclass(frozen=True)
class Cost:
    """Results of one spec: their number, the tokens read and written for them, and about how long that took.

    `seconds` is None if no shard tells how fast the spec was computed.
    """

    spec_id: int
    spec: str
    outcomes: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float | None = None


def of_dropping(
    database: Database,
    *,
    older_than_s: float,
    spec_ids: Collection[int] | None = None,
    superseded: bool = False,
) -> list[Cost]:
    """Return the cost of `gc.drop` by spec, with the results that nothing needs after it.

    With `superseded` include `versions.remove`. The results of prompts around dropped texts are not counted.
    """
    specs = _specs(database)
    wanted = sorted(specs) if spec_ids is None else sorted(spec_ids)
    going = _going_with(wanted, older_than_s, superseded=superseded)
    costs = {spec_id: Cost(spec_id, name) for spec_id, name in specs.items()}
    followed = Seen()
    for spec_id in wanted:
        for page in _going(database, spec_id, going.outcomes):
            _add(costs, page)
            _follow(database, going, _outputs(page, followed), costs, followed)
    for versions_page in versions.removable(database, older_than_s) if superseded else ():
        _follow(database, going, _read_of(database, versions_page, followed), costs, followed)
    return [replace(cost, seconds=_seconds(database, cost)) for cost in costs.values() if cost.outcomes]


def of_removing(
    database: Database,
    *,
    older_than_s: float,
    spec_ids: Collection[int] | None = None,
    superseded: bool = False,
) -> Removed:
    """Return the numbers of texts and results that `gc.drop` and `gc.collect` would remove now, each once.

    With `superseded` include `versions.remove`. Prompts around dropped texts are not counted, nor their results.
    """
    wanted = sorted(_specs(database)) if spec_ids is None else sorted(spec_ids)
    going = _going_with(wanted, older_than_s, superseded=superseded)
    dropped = sum(len(page) for spec_id in wanted for page in _going(database, spec_id, going.outcomes))
    return of_collecting(database, going) + Removed(outcomes=dropped)


def _specs(database: Database) -> dict[int, str]:
    query = select(SpecRow.id, *SPEC).order_by(SpecRow.id)
    with database.read() as transaction:
        return {row.id: str(spec_of(row)) for row in transaction.execute(query)}


def _going_with(spec_ids: Collection[int], older_than_s: float, *, superseded: bool) -> Going:
    return Going(
        and_(OutcomeRow.spec_id.in_(spec_ids), gc.is_old(older_than_s), not_(gc.is_worked_on())),
        versions.are_removable(older_than_s) if superseded else None,
    )


_OUTCOME = (
    OutcomeRow.spec_id,
    OutcomeRow.content_id,
    OutcomeRow.output_id,
    OutcomeRow.tokens_in,
    OutcomeRow.tokens_out,
)


def _going(database: Database, spec_id: int, going: ColumnElement[bool]) -> Iterator[list[Any]]:
    """Yield the outcomes of a spec that would be dropped, a page at a time."""
    query = select(*_OUTCOME, going.label("goes")).where(OutcomeRow.spec_id == spec_id)
    for page in pages(database, query, OutcomeRow.content_id, LOOK):
        yield [outcome for outcome in page if outcome.goes]


def _follow(database: Database, going: Going, front: set[int], costs: dict[int, Cost], followed: Seen) -> None:
    """Count the results of these texts that nothing else needs, and those of later steps, step by step."""
    while front:
        followed.add(front)
        with database.read() as transaction:
            loose = gc.unneeded(transaction, front, going)
            query = select(*_OUTCOME).where(not_(going.outcomes))
            made = transaction.probe(query, OutcomeRow.content_id, loose)
        _add(costs, made)
        front = _outputs(made, followed)


def _read_of(database: Database, documents: Sequence[Any], followed: Seen) -> set[int]:
    """Return the texts of these documents and the prompts around them that were not followed yet."""
    with database.read() as transaction:
        query = select(Prompt.content_id)
        prompts = transaction.probe(query, Prompt.document_id, [row.id for row in documents])
    texts = {row.content_id for row in (*documents, *prompts)}
    return {text for text in texts if text not in followed}


def _outputs(outcomes: Sequence[Any], followed: Seen) -> set[int]:
    return {one.output_id for one in outcomes if one.output_id is not None and one.output_id not in followed}


def _add(costs: dict[int, Cost], outcomes: Sequence[Any]) -> None:
    for one in outcomes:
        cost = costs[one.spec_id]
        tokens_in, tokens_out = cost.tokens_in + one.tokens_in, cost.tokens_out + one.tokens_out
        costs[one.spec_id] = replace(cost, outcomes=cost.outcomes + 1, tokens_in=tokens_in, tokens_out=tokens_out)


def _seconds(database: Database, cost: Cost) -> float | None:
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


def of_collecting(database: Database, going: Going = NOTHING) -> Removed:
    """Return the numbers of texts and results that `gc.collect` would remove once `going` is gone."""
    total, last = Removed(), 0
    following = select(Content.id).order_by(Content.id).limit(LOOK)
    while True:
        with database.read() as transaction:
            transaction.prefer_indexes()
            page = transaction.scalars(following.where(Content.id > last)).all()
            unneeded = gc.unneeded(transaction, page, going)
            query = select(func.count()).select_from(OutcomeRow).where(not_(going.outcomes))
            of_these = [unneeded[first : first + LOOK] for first in range(0, len(unneeded), LOOK)]
            outcomes = sum(transaction.scalar(query.where(OutcomeRow.content_id.in_(ids))) or 0 for ids in of_these)
        total += Removed(contents=len(unneeded), outcomes=outcomes)
        if len(page) < LOOK:
            return total
        last = page[-1]
