"""Estimate the time that a job still takes, as an interval, from the sums of its shards and the latest ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

from sqlalchemy import Row, func, select, union_all

from docmill.storage.core.schema import ADDED_BY_SHARD, IS_RUNNING, Job, Shard, ShardCount
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps.sharding import OPEN_SHARDS

WINDOW_S = 300.0  # over how long the pace is taken, if shards are short
SHARDS_LONG = 12  # over how many lengths of a shard, if they are long
FEW_SHARDS = 4  # with fewer finished ones nothing is said
PERIODS = (3, 12)  # fewest and most
LEAST_SPREAD = 0.1  # the texts that are left may differ from those that are done
# The 0.95 quantiles of Student's t distribution with 2, 3, … 11 degrees of freedom.
T_95 = (2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796)


class Unknown(StrEnum):
    """The reason why the time left is not known."""

    TOO_LITTLE = "too_little"  # too few shards are finished
    STANDS = "stands"  # nothing moves; the status says why
    ENDED = "ended"


@dataclass(frozen=True)
class TimeLeft:
    """The pace of a job, and the seconds that it still takes: nine times of ten between `low_s` and `high_s`.

    `high_s` is None if there is no upper bound: the source is still read, the pace varies too much, or a step has not
    begun. Then `left_s` counts only the known work. If nothing is known, `left_s` is None and `unknown` says why.
    Tokens are those that the model reads.
    """

    texts_per_s: float = 0.0
    tokens_per_s: float = 0.0
    left_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    unknown: Unknown | None = None


@dataclass(frozen=True)
class HeldShard:
    """A shard that a worker held; `finished_at` is None as long as it holds it. Times are seconds since 1970."""

    step: int
    started_at: float
    finished_at: float | None
    chars: int
    texts: int
    tokens: int

    @property
    def length_s(self) -> float:
        assert self.finished_at is not None
        return max(self.finished_at - self.started_at, 1e-3)


@dataclass(frozen=True)
class StepWork:
    """The work of one step of a job. It reads the outputs of the step `reads`; None stands for the documents.

    `settled` texts have an outcome, also those that had it before the job. `finished_s` are the seconds in which the
    job's finished shards of the step were held, and `finished_chars` their characters.
    """

    step: int
    reads: int | None
    settled: int
    open_texts: int
    open_chars: int
    finished_texts: int
    finished_chars: int
    finished_s: float


def estimate(
    now: float, held: Sequence[HeldShard], steps: Sequence[StepWork], *, computed: float = 0.0, reading: bool = False
) -> TimeLeft:
    """Return the pace of a job and its time left. `held` are shards that it finished lately, and the running ones.

    Work is measured in characters; those of a step count as much as the step's shards took for them, so that steps of
    unlike cost add up. The recent time is divided into periods of at least the length of a shard, and a shard's work
    counts evenly over the time in which it was held. A running shard counts with the part that its step's pace gives.
    The time left is the work left by the mean rate of the periods. Its ends come from the prediction interval for the
    mean of m future observations after k observed ones, mean ± t s √(1/k + 1/m) (G. Hahn and W. Meeker, Statistical
    Intervals, on the mean of a future sample from a normal distribution), at 90 %: of the rates of periods, or of the
    costs of shards, which is wider, and at least a tenth. The high end has the length of a shard added, since the
    last shards may end one after the other. All this takes the work that is left as like the work that is done.

    `computed` of the open texts are computed and not yet written. With `reading`, more texts may come.
    """
    finished = [shard for shard in held if shard.finished_at is not None]
    if not finished:
        return TimeLeft(unknown=Unknown.TOO_LITTLE)
    mean_s = fmean(shard.length_s for shard in finished)
    window_s = max(WINDOW_S, SHARDS_LONG * mean_s)
    lately = [shard for shard in finished if shard.finished_at is not None and shard.finished_at > now - window_s]
    if not lately:
        return TimeLeft(unknown=Unknown.TOO_LITTLE)
    start = max(now - window_s, min(shard.started_at for shard in lately))
    span_s = max(now - start, 1e-3)
    weights = _weights(steps)
    running = [_so_far(shard, finished, now) for shard in held if shard.finished_at is None]
    spread = [*lately, *(shard for shard in running if shard is not None)]
    n = min(max(int(span_s / max(mean_s, 0.5)), PERIODS[0]), PERIODS[1])
    rates = _rates(spread, weights, start, span_s, n)
    pace = TimeLeft(
        sum(shard.texts * _within(shard, start, now) for shard in spread) / span_s,
        sum(shard.tokens * _within(shard, start, now) for shard in spread) / span_s,
    )
    if len(lately) < FEW_SHARDS or not fmean(rates):
        return replace(pace, unknown=Unknown.TOO_LITTLE)
    work, is_all = _work_left(steps, weights, computed)
    left_s = work / fmean(rates)
    costs = [shard.length_s / max(shard.chars * weights.get(shard.step, 1.0), 1e-9) for shard in lately]
    half = _spread(rates, costs, len(lately) * left_s / span_s, n * left_s / span_s)
    bounded = half < 1 and is_all and not reading
    tail_s = mean_s if work else 0.0  # the last shards may end one after the other
    return replace(
        pace, low_s=left_s / (1 + half), left_s=left_s, high_s=left_s / (1 - half) + tail_s if bounded else None
    )


def _weights(steps: Sequence[StepWork]) -> Mapping[int, float]:
    """Return the seconds that a character of each step takes; of a step without finished shards as the others."""
    known = {
        work.step: work.finished_s / work.finished_chars for work in steps if work.finished_chars and work.finished_s
    }
    typical = fmean(known.values()) if known else 1.0
    return {work.step: known.get(work.step, typical) for work in steps}


def _so_far(running: HeldShard, finished: Sequence[HeldShard], now: float) -> HeldShard | None:
    """Return the part of a running shard that its step's pace gives; None if its step has finished none."""
    alike = [shard for shard in finished if shard.step == running.step]
    chars = sum(shard.chars for shard in alike)
    held_s = now - running.started_at
    if not chars or held_s <= 0:
        return None
    length_s = max(running.chars * sum(shard.length_s for shard in alike) / chars, 1e-3)
    part = min(1.0, held_s / length_s)
    tokens = running.chars * sum(shard.tokens for shard in alike) / chars
    return replace(
        running,
        finished_at=running.started_at + min(held_s, length_s),
        chars=round(running.chars * part),
        texts=round(running.texts * part),
        tokens=round(tokens * part),
    )


def _within(shard: HeldShard, start: float, end: float) -> float:
    """Return the share of a shard's time that lies within a period."""
    until = shard.started_at + shard.length_s
    return max(0.0, min(until, end) - max(shard.started_at, start)) / shard.length_s


def _rates(
    shards: Sequence[HeldShard], weights: Mapping[int, float], start: float, span_s: float, n: int
) -> list[float]:
    """Return the work per second in each of `n` periods."""
    width_s = span_s / n
    work = [0.0] * n
    for shard in shards:
        size, since = shard.chars * weights.get(shard.step, 1.0), shard.started_at - start
        first, last = int(max(since, 0.0) / width_s), int((since + shard.length_s) / width_s)
        for period in range(min(first, n - 1), min(last, n - 1) + 1):
            edge = start + period * width_s
            work[period] += size * _within(shard, edge, edge + width_s)
    return [amount / width_s for amount in work]


def _work_left(steps: Sequence[StepWork], weights: Mapping[int, float], computed: float) -> tuple[float, bool]:
    """Return the work left, with that which later steps will get, and True if no step's work is unknown."""
    coming: dict[int, float] = {}  # texts that are open or will be, by step
    is_all = True
    work = open_work = 0.0
    for of_step in steps:
        more = 0.0
        if of_step.reads is not None and (ahead := coming.get(of_step.reads, 0.0)) > 0:
            read = next(other for other in steps if other.step == of_step.reads)
            got = of_step.finished_texts + of_step.open_texts
            if read.settled:
                more = ahead * got / read.settled
            is_all = is_all and bool(read.settled) and (not got or bool(of_step.finished_texts))
        coming[of_step.step] = of_step.open_texts + more
        known = of_step.finished_texts + of_step.open_texts
        chars = (of_step.finished_chars + of_step.open_chars) / known if known else 0.0
        open_work += of_step.open_chars * weights[of_step.step]
        work += (of_step.open_chars + more * chars) * weights[of_step.step]
        is_all = is_all and (not of_step.open_texts or bool(of_step.finished_texts))
    texts = sum(of_step.open_texts for of_step in steps)
    done = open_work * min(1.0, computed / texts) if texts else 0.0
    return max(0.0, work - done), is_all


def _spread(rates: Sequence[float], costs: Sequence[float], n_left: float, periods_left: float) -> float:
    """Return the half width of the prediction interval of the mean rate, as a share of that rate."""
    half = 0.0
    for values, ahead in ((rates, periods_left), (costs, n_left)):
        scatter = stdev(values) / fmean(values)
        half = max(half, _t(len(values)) * scatter * math.sqrt(1 / len(values) + 1 / max(ahead, 1.0)))
    return max(half, LEAST_SPREAD)


def _t(n: int) -> float:
    return T_95[min(n - 3, len(T_95) - 1)]


class ShardSums:
    """A job's shards in numbers, by step and state: its kept counts (`storage.core.schema.ShardCount`).

    `span` is the start of the first finished shard and the end of the last. `next_tries` has the time at which the
    first shard of a step may be computed, for steps whose open shards are all planned.
    """

    def __init__(
        self,
        groups: Sequence[Row[*tuple[Any, ...]]] = (),
        span: tuple[float | None, float | None] = (None, None),
        next_tries: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        self._groups = groups
        self._span = span
        self._next_tries = next_tries

    def total(self, name: str, *states: str, step: int | None = None) -> int:
        """Return the sum of a column over the shards in these states, or over all shards."""
        return sum(
            int(getattr(group, name) or 0)
            for group in self._groups
            if (not states or group.state in states) and (step is None or group.step == step)
        )

    def shards(self, step: int | None = None) -> dict[str, int]:
        """Return the number of shards by state."""
        states = {group.state for group in self._groups if step is None or group.step == step}
        return {state: self.total("n", state, step=step) for state in sorted(states)}

    def open_steps(self) -> list[int]:
        """Return the steps that have open shards."""
        return sorted({group.step for group in self._groups if group.state in OPEN_SHARDS})

    def next_try_at(self, step: int) -> float | None:
        """Return when the first planned shard of a step may be computed, if all its open shards are planned."""
        return self._next_tries.get(step)

    def held_s(self, step: int) -> float:
        """Return the seconds in which a step's finished shards were held."""
        return self.total("held_ms", "done", step=step) / 1e3

    def rate(self) -> TimeLeft:
        """Return the mean pace, from the first finished shard to the last."""
        begun, ended = self._span
        if begun is None or ended is None:
            return TimeLeft(unknown=Unknown.ENDED)
        seconds = max(ended - begun, 0.001)
        texts, tokens = self.total("n_contents", "done"), self.total("tokens_in", "done")
        return TimeLeft(texts / seconds, tokens / seconds, unknown=Unknown.ENDED)


def shard_sums(transaction: Transaction, job_ids: Collection[int]) -> dict[int, ShardSums]:
    """Return the sums over the shards of each of these jobs. The cost does not depend on the number of shards."""
    key, n = (ShardCount.job_id, ShardCount.step, ShardCount.state), func.sum(ShardCount.n)
    sums = (func.sum(ShardCount.__table__.c[name]).label(name) for name in ADDED_BY_SHARD)
    counted = select(*key, *sums).where(ShardCount.job_id.in_(job_ids)).group_by(*key).having(n != 0)
    by_job: dict[int, list[Row[*tuple[Any, ...]]]] = {job_id: [] for job_id in job_ids}
    for group in transaction.execute(counted):
        by_job[group.job_id].append(group)
    transaction.prefer_index_order()
    of_job = select(Shard.started_at).where(Shard.job_id == Job.id, Shard.finished_at.is_not(None)).limit(1)
    first = of_job.order_by(Shard.finished_at).scalar_subquery()
    last = of_job.with_only_columns(Shard.finished_at).order_by(Shard.finished_at.desc()).scalar_subquery()
    spans = {
        row[0]: (row[1], row[2])
        for row in transaction.execute(select(Job.id, first, last).where(Job.id.in_(job_ids)))
    }
    next_tries = _next_tries(transaction, by_job)
    return {
        job_id: ShardSums(groups, spans.get(job_id, (None, None)), next_tries[job_id])
        for job_id, groups in by_job.items()
    }


FIRST_PLANNED = 100  # the shards among which the next try is looked for


def _next_tries(
    transaction: Transaction, by_job: Mapping[int, Sequence[Row[*tuple[Any, ...]]]]
) -> dict[int, dict[int, float]]:
    """Return the time of the next try of each step whose open shards are all planned."""
    next_tries: dict[int, dict[int, float]] = {job_id: {} for job_id in by_job}
    open_states: dict[tuple[int, int], set[str]] = defaultdict(set)
    for group in chain.from_iterable(by_job.values()):
        if group.state in OPEN_SHARDS:
            open_states[group.job_id, group.step].add(group.state)
    for job_id in {job_id for (job_id, _), states in open_states.items() if states == {"planned"}}:
        first = select(Shard.step, Shard.not_before).where(Shard.job_id == job_id, Shard.state == "planned")
        for row in transaction.execute(first.order_by(Shard.lane, Shard.id).limit(FIRST_PLANNED)):
            if open_states[job_id, row.step] == {"planned"}:
                earliest = next_tries[job_id].get(row.step, row.not_before)
                next_tries[job_id][row.step] = min(earliest, row.not_before)
    return next_tries


HISTORY_S = 3_600.0  # how far back
MOST_SHARDS = 300  # of a job


def held_lately(transaction: Transaction, job_ids: Collection[int], now: float) -> dict[int, list[HeldShard]]:
    """Return the shards of the last hour of each job, at most 300 finished ones, and those that workers hold.

    They come from the store alone, so that a pace is the same after a restart of anything.
    """
    columns = (Shard.job_id, Shard.step, Shard.state, Shard.started_at, Shard.finished_at)
    held = select(*columns, Shard.n_chars, Shard.n_contents, Shard.tokens_in).where(Shard.started_at.is_not(None))
    transaction.prefer_index_order()
    finished = (
        held.where(Shard.job_id == job_id, Shard.finished_at > now - HISTORY_S)
        .order_by(Shard.finished_at.desc())
        .limit(MOST_SHARDS)
        .subquery()
        .select()
        for job_id in job_ids
    )
    running = held.where(IS_RUNNING, Shard.job_id.in_(job_ids))
    by_job: dict[int, list[HeldShard]] = {job_id: [] for job_id in job_ids}
    for row in transaction.execute(union_all(running, *finished)):
        finished_at = row.finished_at if row.state == "done" else None
        by_job[row.job_id].append(
            HeldShard(row.step, row.started_at, finished_at, row.n_chars, row.n_contents, row.tokens_in)
        )
    return by_job
