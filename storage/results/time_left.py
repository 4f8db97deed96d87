"""Estimate a job's time left from the sums of its shards and its latest shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from statistics import fmean

from sqlalchemy import func, select, union_all

from docmill.storage.core.schema import ADDED_BY_SHARD, IS_RUNNING, AnyRow, Job, Shard, ShardCount
from docmill.storage.core.transaction import Transaction
from docmill.storage.steps.sharding import OPEN_SHARDS

WINDOW_S = 300.0  # the time over which the pace is measured, if shards are short
SHARDS_LONG = 12  # the time over which it is measured, if they are long, in mean lengths of a shard
FEW_SHARDS = 4  # with fewer finished shards, the time left is not known


@dataclass(frozen=True)
class TimeLeft:
    """The pace of a job, and the seconds that it still takes.

    With `at_least`, `left_s` counts only the known work: the source is still read, or a step has not begun. `left_s`
    is None if nothing is known. Tokens are those that the model reads.
    """

    texts_per_s: float = 0.0
    tokens_per_s: float = 0.0
    left_s: float | None = None
    at_least: bool = False


@dataclass(frozen=True)
class HeldShard:
    """A shard that a worker held; `finished_at` is None as long as it holds it. Times are seconds since 1970."""

    step: int
    started_at: float
    finished_at: float | None
    chars: int
    texts: int
    tokens: int

    def length_s(self, now: float) -> float:
        """Return the seconds in which it was held so far."""
        return max((self.finished_at or now) - self.started_at, 1e-3)


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

    Work is measured in characters, weighted by the time that a step's shards took for them, so that steps of unlike
    cost add up. The pace is the work of the shards that were finished lately over the seconds in which they were
    held, times the number of shards that were held at a time, running ones among them. The estimate assumes that the
    work left is like the work done.

    `computed` of the open texts are computed and not yet written. With `reading`, more texts may come.
    """
    finished = [shard for shard in held if shard.finished_at is not None]
    if not finished:
        return TimeLeft()
    window_s = max(WINDOW_S, SHARDS_LONG * fmean(shard.length_s(now) for shard in finished))
    lately = [shard for shard in finished if shard.finished_at is not None and shard.finished_at > now - window_s]
    if not lately:
        return TimeLeft()
    start = max(now - window_s, min(shard.started_at for shard in lately))
    held_s = sum(max(0.0, (shard.finished_at or now) - max(shard.started_at, start)) for shard in held)
    at_a_time = held_s / max(now - start, 1e-3)
    per_s = at_a_time / sum(shard.length_s(now) for shard in lately)
    pace = TimeLeft(per_s * sum(shard.texts for shard in lately), per_s * sum(shard.tokens for shard in lately))
    weights = _weights(steps)
    rate = per_s * sum(shard.chars * weights.get(shard.step, 1.0) for shard in lately)
    if len(lately) < FEW_SHARDS or not rate:
        return pace
    work, is_all = _work_left(steps, weights, computed)
    return replace(pace, left_s=work / rate, at_least=reading or not is_all)


def _weights(steps: Sequence[StepWork]) -> Mapping[int, float]:
    """Return the seconds that a character of each step takes; of a step without finished shards as the others."""
    known = {
        work.step: work.finished_s / work.finished_chars for work in steps if work.finished_chars and work.finished_s
    }
    typical = fmean(known.values()) if known else 1.0
    return {work.step: known.get(work.step, typical) for work in steps}


def _work_left(steps: Sequence[StepWork], weights: Mapping[int, float], computed: float) -> tuple[float, bool]:
    """Return the work left, with the work that later steps will get, and True if the work of each step is known."""
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


@dataclass(frozen=True)
class ShardSums:
    """A job's shards in numbers, by step and state: its kept counts (`storage.core.schema.ShardCount`).

    `span` is the start of the first finished shard and the end of the last. `next_tries` has the time at which the
    first shard of a step may be computed, for steps whose open shards are all planned.
    """

    groups: Sequence[AnyRow]
    span: tuple[float | None, float | None]
    next_tries: Mapping[int, float]

    def total(self, name: str, *states: str, step: int | None = None) -> int:
        """Return the sum of a column over the shards in these states, or over all shards."""
        return sum(
            int(getattr(group, name) or 0)
            for group in self.groups
            if (not states or group.state in states) and (step is None or group.step == step)
        )

    def shards(self) -> dict[str, int]:
        """Return the number of shards by state."""
        return {state: self.total("n", state) for state in sorted({group.state for group in self.groups})}

    def steps_to_do(self) -> list[int]:
        """Return the steps that have open shards."""
        return sorted({group.step for group in self.groups if group.state in OPEN_SHARDS})

    def held_s(self, step: int | None = None) -> float:
        """Return the seconds in which the finished shards of a step, or of all, were held."""
        return self.total("held_ms", "done", step=step) / 1e3

    def rate(self) -> TimeLeft:
        """Return the mean pace from the first finished shard to the last, without pauses of one worker.

        Shards that were folded into one count as held from the first to the last of them.
        """
        begun, ended = self.span
        if begun is None or ended is None:
            return TimeLeft()
        seconds = max(min(ended - begun, self.held_s()), 0.001)
        texts, tokens = self.total("n_contents", "done"), self.total("tokens_in", "done")
        return TimeLeft(texts / seconds, tokens / seconds)


def read_shard_sums(transaction: Transaction, job_ids: Collection[int]) -> dict[int, ShardSums]:
    """Return the sums over the shards of each of these jobs. The cost does not depend on the number of shards."""
    key, n = (ShardCount.job_id, ShardCount.step, ShardCount.state), func.sum(ShardCount.n)
    sums = (func.sum(ShardCount.__table__.c[name]).label(name) for name in ADDED_BY_SHARD)
    counted = select(*key, *sums).where(ShardCount.job_id.in_(job_ids)).group_by(*key).having(n != 0)
    by_job: dict[int, list[AnyRow]] = {job_id: [] for job_id in job_ids}
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


def _next_tries(transaction: Transaction, by_job: Mapping[int, Sequence[AnyRow]]) -> dict[int, dict[int, float]]:
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
MOST_QUERIES = 400  # in a statement: SQLite takes 500


def read_held_lately(transaction: Transaction, job_ids: Collection[int], now: float) -> dict[int, list[HeldShard]]:
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
    rows = [*transaction.execute(running)]
    while several := [*islice(finished, MOST_QUERIES)]:
        rows += transaction.execute(union_all(*several))
    for row in rows:
        finished_at = row.finished_at if row.state == "done" else None
        by_job[row.job_id].append(
            HeldShard(row.step, row.started_at, finished_at, row.n_chars, row.n_contents, row.tokens_in)
        )
    return by_job
