"""The shards of jobs in numbers, by step and state. One statement reads those of many jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, func, select

from docmill.storage.core.schema import Shard
from docmill.storage.core.transaction import Transaction
from docmill.storage.results.time_left import TimeLeft, Unknown
from docmill.storage.steps.jobs import OPEN_SHARDS

_SUMMED = (
    *(Shard.n_contents, Shard.n_chars, Shard.n_done, Shard.n_failed, Shard.n_skipped, Shard.n_truncated),
    *(Shard.tokens_in, Shard.tokens_out),
)


class ShardSums:
    """A job's shards in numbers, by step and state."""

    def __init__(self, groups: Sequence[Row[*tuple[Any, ...]]] = ()) -> None:
        self._groups = groups

    def total(self, name: str, *states: str, step: int | None = None) -> int:
        """The sum of a column over the shards in any of these states, or in any at all."""
        return sum(
            int(getattr(group, name) or 0)
            for group in self._groups
            if (not states or group.state in states) and (step is None or group.step == step)
        )

    def shards(self, step: int | None = None) -> dict[str, int]:
        """Return the number of shards by state."""
        found = {group.state for group in self._groups if step is None or group.step == step}
        return {state: self.total("shards", state, step=step) for state in sorted(found)}

    def open_steps(self) -> list[int]:
        """Return the steps that have open shards."""
        return sorted({group.step for group in self._groups if group.state in OPEN_SHARDS})

    def next_try_at(self, step: int) -> float | None:
        """Return when the first planned shard of a step may be computed, if all its open shards are planned."""
        if self.shards(step).keys() & {*OPEN_SHARDS} != {"planned"}:
            return None
        waiting = [group for group in self._groups if group.step == step and group.state == "planned"]
        return min(float(group.not_before) for group in waiting)

    def held_s(self, step: int) -> float:
        """Return the seconds in which a step's finished shards were held."""
        found = [group.held_s for group in self._groups if group.step == step and group.state == "done"]
        return float(found[0] or 0.0) if found else 0.0

    def rate(self) -> TimeLeft:
        """Return the mean pace, from the first finished shard to the last."""
        ended = [group for group in self._groups if group.state == "done"]
        begun = [group.started_at for group in ended if group.started_at is not None]
        done = [group.finished_at for group in ended if group.finished_at is not None]
        if not begun or not done:
            return TimeLeft(unknown=Unknown.ENDED)
        seconds = max(max(done) - min(begun), 0.001)
        texts, tokens = self.total("n_contents", "done"), self.total("tokens_in", "done")
        return TimeLeft(texts / seconds, tokens / seconds, unknown=Unknown.ENDED)


def shard_sums(transaction: Transaction, job_ids: Collection[int]) -> dict[int, ShardSums]:
    """Return the sums over the shards of each of these jobs."""
    groups = transaction.execute(
        select(
            *(Shard.job_id, Shard.step, Shard.state, func.count().label("shards")),
            *(func.sum(column).label(column.key) for column in _SUMMED),
            func.sum(Shard.finished_at - Shard.started_at).label("held_s"),
            func.min(Shard.started_at).label("started_at"),
            func.max(Shard.finished_at).label("finished_at"),
            func.min(Shard.not_before).label("not_before"),
        )
        .where(Shard.job_id.in_(job_ids))
        .group_by(Shard.job_id, Shard.step, Shard.state)
    ).all()
    by_job: dict[int, list[Row[*tuple[Any, ...]]]] = {job_id: [] for job_id in job_ids}
    for group in groups:
        by_job[group.job_id].append(group)
    return {job_id: ShardSums(found) for job_id, found in by_job.items()}
