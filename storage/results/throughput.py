"""A job's work over time, in a bounded number of intervals."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import BigInteger, cast, func, select

from storage.core.database import Database
from storage.core.schema import Shard
from storage.steps.jobs import require

INTERVALS = 60


@dataclass(frozen=True)
class Interval:
    """The shards of a job that ended in an interval. `at` is its begin in seconds since 1970."""

    at: float
    texts: int
    tokens: int


@dataclass(frozen=True)
class Throughput:
    """The intervals of a job, each `width_s` long, from the end of its first shard to the end of its last.

    Intervals without work are there, too.
    """

    width_s: float
    intervals: tuple[Interval, ...]


def read_throughput(database: Database, job_id: int, intervals: int = INTERVALS) -> Throughput:
    """Return the work of a job over time. Raises NoSuchJob."""
    require(database, job_id)
    ended = (Shard.job_id == job_id, Shard.finished_at.is_not(None))
    with database.read() as transaction:
        # One by one: each is the end of an index.
        first = transaction.scalar(select(func.min(Shard.finished_at)).where(*ended))
        last = transaction.scalar(select(func.max(Shard.finished_at)).where(*ended))
        if first is None or last is None:
            return Throughput(0.0, ())
        width_s = max(last - first, 1.0) / intervals
        # In thousandths, since one database rounds to a whole number where the other one cuts.
        place = cast((Shard.finished_at - first) / width_s * 1_000, BigInteger) // 1_000
        texts = func.sum(Shard.n_done + Shard.n_failed + Shard.n_skipped)
        rows = transaction.execute(
            select(place.label("place"), texts.label("texts"), func.sum(Shard.tokens_in + Shard.tokens_out))
            .where(*ended, Shard.state == "done")
            .group_by(place)
        ).all()
    found = [[0, 0] for _ in range(intervals)]
    for at, n_texts, tokens in rows:
        bucket = found[min(max(at, 0), intervals - 1)]
        bucket[0] += int(n_texts)
        bucket[1] += int(tokens)
    return Throughput(width_s, tuple(Interval(first + n * width_s, *bucket) for n, bucket in enumerate(found)))
