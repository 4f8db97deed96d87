"""Choose the shards to put into the queue, and keep the list of workers that can serve them."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Select,
    and_,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from docmill.storage.core.database import Database
from docmill.storage.core.normalize import normalize
from docmill.storage.core.schema import (
    IS_RETURNED,
    AnyRow,
    Budget,
    Ingest,
    Job,
    Refusal,
    Shard,
    SpecRow,
    Step,
    Worker,
    db_now,
)
from docmill.storage.core.transaction import Transaction
from docmill.storage.leases.policy import Claimant, choose_newcomers, choose_turns, count_affordable
from docmill.storage.steps.budgets import cost
from docmill.storage.steps.jobs import FREE, MAY_BEGIN, RUNS
from docmill.storage.steps.sharding import OPEN_SHARDS

LIVE_S = 30.0  # a worker that was silent for longer is not counted
REFUSAL_S = 30.0  # how long a refusal holds before the worker is asked again
LEAST_WINDOW = 4  # a worker that starts finds shards at once
WINDOW_PER_SLOT = 2
_MOST_WINDOWS = 2  # that may wait, with the shards that go ahead
PASSED_S = 60.0  # twice as long as maintenance believes that a queued shard has its message

# Statements of each round are built once: SQLAlchemy takes longer to build them than SQLite to run them.
_ONLY_JOB = bindparam("only_job", type_=BigInteger)
OF_ONLY_JOB = or_(_ONLY_JOB.is_(None), Job.id == _ONLY_JOB)
_LANES = (
    select(SpecRow.kind)
    .join(Step, Step.spec_id == SpecRow.id)
    .join(Job, Job.id == Step.job_id)
    .where(RUNS, OF_ONLY_JOB)
    .distinct()
)
_LAST_DISPATCHED = (
    select(Shard.dispatched_at)
    .where(Shard.lane == bindparam("lane"), Shard.state == bindparam("state"), Shard.dispatched_at.is_not(None))
    # Not max(): PostgreSQL reads all of them for it, when it believes that there are few.
    .order_by(Shard.dispatched_at.desc())
    .limit(1)
)
_QUEUED = (
    select(Shard.lane, func.count().label("n"))
    .join(Job, Job.id == Shard.job_id)
    .where(Shard.lane.in_(bindparam("lanes")), Shard.state == "queued", Shard.dispatched_at >= bindparam("since"))
    .where(RUNS, OF_ONLY_JOB)
    .group_by(Shard.lane)
)
_LIVE = select(Worker.id, Worker.lanes, Worker.slots).where(Worker.seen_at > db_now() - LIVE_S)
_REFUSED = select(Refusal.worker_id, Refusal.spec_id).where(Refusal.refused_at > db_now() - REFUSAL_S)
_WAITING = (Shard.lane == bindparam("lane"), Shard.state == "queued", Shard.dispatched_at >= bindparam("since"))
_OF_RUNNING_JOB = and_(Job.id == Shard.job_id, RUNS)  # a top-up that races with a cancel may leave a queued shard
_JOBS_WAITING = select(Job.id, Job.priority).join(Shard, _OF_RUNNING_JOB).where(*_WAITING).distinct()
_OLDEST_WAITING = select(func.min(Shard.dispatched_at)).join(Job, _OF_RUNNING_JOB).where(*_WAITING)
_NEIGHBORS = select(Worker.id, Worker.pid).where(Worker.pid_space == bindparam("pid_space"))


@dataclass(frozen=True)
class LaneWindow:
    """A lane's queue. No waiting shard was dispatched before `since`, unless its message was lost.

    Every live worker of the lane has refused the specs `unservable` lately. With `only_job` only shards of that job
    are counted and taken.
    """

    name: str
    slots: int
    queued: int
    since: float = 0.0
    unservable: Collection[int] = ()
    only_job: int | None = None

    @property
    def window(self) -> int:
        """The most shards that may wait in the lane's queue."""
        return max(LEAST_WINDOW, WINDOW_PER_SLOT * self.slots)

    @property
    def values(self) -> dict[str, Any]:
        """The values of parameters that select the lane's shards."""
        named = {"lane": self.name, "since": self.since, "unservable": self.unservable}
        return named | {"only_job": self.only_job}


def lanes(database: Database, only: str | None = None, only_job: int | None = None) -> list[LaneWindow]:
    """Return the lanes of running jobs, or of one, with the slots of live workers and the number of queued shards.

    With `only`, shards of that lane are not counted if their message was lost.
    """
    with database.read() as transaction:
        transaction.prefer_indexes()
        of_jobs = transaction.scalars(_LANES, {"only_job": only_job})
        wanted = [lane for lane in of_jobs if only in {None, lane}]
        since = {lane: _passed_until(transaction, lane) for lane in sorted(wanted)}
        depth = _count_queued(transaction, wanted, 0.0 if only is None else since.get(only, 0.0), only_job)
        workers, refusals = transaction.execute(_LIVE).all(), transaction.execute(_REFUSED).all()
    windows = []
    for lane, begins in since.items():
        slots = {worker.id: worker.slots for worker in workers if lane in worker.lanes}
        refused = Counter(refusal.spec_id for refusal in refusals if refusal.worker_id in slots)
        unservable = [spec_id for spec_id, n in refused.items() if n == len(slots)]
        windows.append(LaneWindow(lane, sum(slots.values()), depth.get(lane, 0), begins, unservable, only_job))
    return windows


def _passed_until(transaction: Transaction, lane: str) -> float:
    """Return a time before which no waiting shard was dispatched, unless its message was lost."""
    now = transaction.read_clock()
    return max(0.0, min(last_dispatched(transaction, lane, "done"), now) - PASSED_S)


def last_dispatched(transaction: Transaction, lane: str, state: str) -> float:
    """Return the latest time at which a shard in this state was dispatched; 0 if there is none."""
    return transaction.scalar(_LAST_DISPATCHED, {"lane": lane, "state": state}) or 0.0


def _count_queued(
    transaction: Transaction, lanes: Collection[str], since: float, only_job: int | None
) -> dict[str, int]:
    counted = transaction.execute(_QUEUED, {"lanes": lanes, "since": since, "only_job": only_job})
    return {row.lane: row.n for row in counted}


def take(database: Database, lane: LaneWindow) -> tuple[list[int], list[int]]:
    """Mark as queued the shards that fit the lane's window, by priority and fair share.

    Return the ids of those that the caller publishes ahead of what waits, and of those that it publishes behind it.
    Queued shards make room for those of a job with a higher priority; their messages are void then. If a sharer has
    no shard in flight, and a job of the highest priority, one of its shards is taken beyond the window, to go ahead
    of what waits. In a window of only one job none goes ahead, and none makes room.
    """
    with database.read() as transaction:  # most often there is nothing to do; a read waits for no writer
        transaction.prefer_indexes()
        transaction.prefer_index_order()
        candidates, first = _find_candidates_and_newcomers(transaction, lane)
        if not candidates:
            return [], []
        has_room = lane.queued < lane.window or (first and lane.queued < _MOST_WINDOWS * lane.window)
        if not has_room and not transaction.execute(_select_outranked(lane, candidates).limit(1)).all():
            return [], []
    return database.write(lambda transaction: _take(transaction, lane))


def _take(transaction: Transaction, lane: LaneWindow) -> tuple[list[int], list[int]]:
    transaction.prefer_indexes()
    transaction.prefer_index_order()
    candidates, first = _find_candidates_and_newcomers(transaction, lane)
    # Read again: other processes fill the queue too.
    n_queued = _count_queued(transaction, [lane.name], lane.since, lane.only_job).get(lane.name, 0)
    ahead: list[int] = []
    if turns := first[: max(0, _MOST_WINDOWS * lane.window - n_queued)]:
        # They get the date of the oldest shard that waits: maintenance believes a message lost if a shard with a
        # later date was taken.
        dated = transaction.scalar(_OLDEST_WAITING, lane.values)
        ahead = _queue(transaction, lane, turns, dated)
        candidates, first = _find_candidates_and_newcomers(transaction, lane)
    n_queued += len(ahead)
    if n_queued < _MOST_WINDOWS * lane.window:  # the next top-up sends these ahead
        groups = {candidate.group for candidate in candidates if candidate.job_id in first}
        candidates = [candidate for candidate in candidates if candidate.group not in groups]
    if not (claimants := _choose_claimants(transaction, lane, candidates)):
        return ahead, []
    room = lane.window - n_queued
    room += _displace(transaction, lane, claimants, room)
    return ahead, _queue(transaction, lane, choose_turns(claimants, room))


_QUEUE = (
    update(Shard)
    .where(Shard.id.in_(bindparam("chosen")), Shard.state == "planned")
    .values(state="queued", dispatched_at=func.coalesce(bindparam("dated", type_=Float), db_now()))
)


def _queue(transaction: Transaction, lane: LaneWindow, turns: Sequence[int], dated: float | None = None) -> list[int]:
    """Mark a ready shard as queued for each turn of a job. Return the ids in the order of the turns."""
    of_jobs: dict[int, deque[int]] = {job_id: deque() for job_id in turns}
    for job_id, n in Counter(turns).items():
        of_job = lane.values | {"job": job_id}
        for first in _select_first_ready():
            locked = transaction.for_update(first, skip_locked=True)
            of_jobs[job_id].extend(transaction.scalars(locked, of_job | {"n": n - len(of_jobs[job_id])}))
    taken = [of_jobs[job_id].popleft() for job_id in turns if of_jobs[job_id]]
    if taken:
        transaction.execute(_QUEUE, {"chosen": taken, "dated": dated})
    return taken


def _displace(transaction: Transaction, lane: LaneWindow, claimants: list[Claimant], room: int) -> int:
    """Put queued shards of lower priority back. Return the number of places that this frees."""
    highest = max(claimant.priority for claimant in claimants)
    wanted = sum(claimant.planned for claimant in claimants if claimant.priority == highest) - room
    if wanted <= 0:
        return 0
    lower = _select_outranked(lane, claimants).order_by(Job.priority, Shard.dispatched_at.desc()).limit(wanted)
    return transaction.execute(
        update(Shard).where(Shard.id.in_(lower), Shard.state == "queued").values(**FREE)
    ).rowcount


def _select_outranked(lane: LaneWindow, claimants: list[Claimant]) -> Select[int]:
    """Select the queued shards of jobs with a lower priority than the highest claimant."""
    highest = max(claimant.priority for claimant in claimants)
    return (
        select(Shard.id)
        .join(Job, Job.id == Shard.job_id)
        .where(
            Shard.lane == lane.name,
            Shard.state == "queued",
            Shard.dispatched_at >= lane.since,
            Job.priority < highest,
            literal(lane.only_job is None),
        )
    )


@cache
def _select_ready(job_id: ColumnElement[int]) -> tuple[Select[int], Select[int]]:
    """Select the shards of a job and of `:lane` that may be dispatched now, without those of the specs `:unservable`.

    The first statement selects shards that were dispatched before. The second starts after the shard that ended
    last, if any did: while a snapshot is held, such as that of `pg_dump`, PostgreSQL reads every old row version of
    the shards before it.
    """

    def planned(shard: ReadOnlyColumnCollection[str, Any], state: ColumnElement[bool]) -> ColumnElement[bool]:
        return and_(
            *(shard.job_id == job_id, state, shard.lane == bindparam("lane")),
            shard.not_before <= db_now(),
            shard.spec_id.not_in(bindparam("unservable")),
        )

    def is_fresh(shard: ReadOnlyColumnCollection[str, Any]) -> ColumnElement[bool]:
        return planned(shard, and_(shard.state == "planned", shard.fence == 0))

    table = Shard.__table__
    ended, later = table.alias("ended").c, table.alias("ahead").c
    has_ended = (ended.job_id == job_id, ended.lane == bindparam("lane"), ended.finished_at.is_not(None))
    last = select(ended.id).where(*has_ended).order_by(ended.finished_at.desc()).limit(1).correlate(Job)
    is_ahead = and_(is_fresh(later), later.id > last.scalar_subquery())
    first = select(later.id).where(is_ahead).order_by(later.id).limit(1).correlate(Job)
    fresh = select(Shard.id).where(is_fresh(table.c), Shard.id >= func.coalesce(first.scalar_subquery(), 0))
    return select(Shard.id).where(planned(table.c, IS_RETURNED)), fresh


@cache
def _select_first_ready() -> list[Select[int]]:
    """Select the first `:n` ready shards of `:job`: those that were dispatched before, then the others."""
    of_job = _select_ready(bindparam("job", type_=BigInteger))
    return [ready.order_by(Shard.id).limit(bindparam("n")) for ready in of_job]


@cache
def _count_ready() -> Select[int]:
    returned, fresh = (
        select(func.count()).select_from(first.order_by(None).subquery()).scalar_subquery()
        for first in _select_first_ready()
    )
    return select(returned + fresh)


@cache
def _select_jobs_with_ready() -> Select[int, int, str | None, int, str | None, bool]:
    # One look into an index for each job, however many shards it has (OFFSET 0: see `Transaction.probe`).
    ready = or_(*(ready.offset(0).correlate(Job).exists() for ready in _select_ready(Job.id)))
    step, spec = Step.__table__.alias("priced").c, SpecRow.__table__.alias("spec_priced").c
    of_lane = (step.job_id == Job.id, spec.id == step.spec_id, spec.kind == bindparam("lane"))
    is_priced = select(step.seq).where(*of_lane, step.price.is_not(None)).correlate(Job).exists().label("is_priced")
    return (
        select(Job.id, Job.priority, Job.sharer, Job.weight, Job.budget, is_priced)
        .join(Step, Step.job_id == Job.id)
        .join(SpecRow, SpecRow.id == Step.spec_id)
        .where(MAY_BEGIN, SpecRow.kind == bindparam("lane"), Step.spec_id.not_in(bindparam("unservable")), ready)
        .where(OF_ONLY_JOB)
        .distinct()
    )


def _find_candidates_and_newcomers(transaction: Transaction, lane: LaneWindow) -> tuple[list[Claimant], list[int]]:
    """Return the candidates, and the ids of the jobs whose next shard goes ahead of what waits."""
    waiting = [] if lane.only_job else transaction.execute(_JOBS_WAITING, lane.values).all()
    candidates = _find_candidates(transaction, lane, beside=[row.id for row in waiting])
    if not waiting or len({row.id for row in waiting} | {candidate.job_id for candidate in candidates}) < 2:
        return candidates, []
    priorities = [row.priority for row in waiting] + [candidate.priority for candidate in candidates]
    return candidates, choose_newcomers(candidates, max(priorities))


def _choose_claimants(transaction: Transaction, lane: LaneWindow, candidates: Collection[Claimant]) -> list[Claimant]:
    """Return the first of the candidates, a window's at most, each with the number of shards that it can dispatch."""
    first = sorted(candidates, key=Claimant.rank)[: lane.window]
    values = [lane.values | {"n": lane.window, "job": claimant.job_id} for claimant in first]
    n_of_job = [transaction.scalar(_count_ready(), of_job) or 0 for of_job in values]
    return [replace(claimant, planned=min(n, claimant.planned)) for claimant, n in zip(first, n_of_job, strict=True)]


def _find_candidates(transaction: Transaction, lane: LaneWindow, *, beside: Collection[int]) -> list[Claimant]:
    """Return the jobs that have shards to dispatch in a lane and a worker that can serve them.

    Each counts as if it had a window's shards to dispatch, or as many as its budgets pay for.

    A job without a price in this lane costs nothing. Shards in flight are counted only if there are several jobs,
    with those `beside`, or any budget.
    """
    jobs = transaction.execute(_select_jobs_with_ready(), lane.values).all()
    are_several = len({*beside, *(job.id for job in jobs)}) > 1
    paying = [job for job in jobs if job.is_priced]
    budgets = _read_budgets(
        transaction, {name for job in paying for name in (job.budget, job.sharer) if name is not None}
    )
    in_flight = _read_in_flight(transaction, lane.name) if budgets or are_several else []
    of_jobs, of_sharers, of_budgets = Counter[int](), Counter[str | None](), Counter[str | None]()
    costs = defaultdict[str | None, float](float)
    for row in in_flight:
        of_jobs[row.id] += row.n
        of_sharers[row.sharer] += row.n
        for name in {row.sharer, row.budget} if row.price is not None else ():
            of_budgets[name] += row.n
            costs[name] += cost(row.price, int(row.tokens_in), int(row.tokens_out))
    affords = {}
    for row in budgets:
        rest = row.max_cost - (row.spent - costs[row.name])
        affords[row.name] = count_affordable(rest, row.ended_cost, row.n_shards) - of_budgets[row.name]
    claimants = [
        Claimant(
            job.id,
            job.priority,
            of_jobs[job.id],
            planned=lane.window,
            sharer=job.sharer,
            shared=of_sharers[job.sharer],
            weight=job.weight,
            affords={name: affords[name] for name in (job.budget, job.sharer) if name in affords and job.is_priced},
        )
        for job in jobs
    ]
    paid = [(claimant, min((lane.window, *claimant.affords.values()))) for claimant in claimants]
    return [replace(claimant, planned=n) for claimant, n in paid if n > 0]


def _read_budgets(transaction: Transaction, names: Collection[str]) -> Sequence[AnyRow]:
    """Return the named budgets that have a limit."""
    limited = select(Budget).where(Budget.name.in_(names), Budget.max_cost.is_not(None))
    return transaction.execute(limited).all() if names else []


def _read_in_flight(transaction: Transaction, lane: str) -> Sequence[AnyRow]:
    """Return the number of shards in flight of each step, and the tokens of their stored outcomes."""
    sums = (func.sum(column).label(column.key) for column in (Shard.tokens_in, Shard.tokens_out))
    return transaction.execute(
        select(Job.id, Job.sharer, Job.budget, Step.price, func.count().label("n"), *sums)
        .join(Step, Step.job_id == Job.id)
        .join(Shard, and_(Shard.job_id == Step.job_id, Shard.step == Step.seq))
        .where(Shard.lane == lane, Shard.state.in_(["queued", "running"]), Shard.dispatched_at.is_not(None))
        .where(or_(Shard.state == "running", RUNS))
        .group_by(Job.id, Step.job_id, Step.seq)
    ).all()


def put_back(database: Database, shard_ids: list[int]) -> None:
    """Mark queued shards as planned again, to undo `take` or to decline a message."""
    database.execute(update(Shard).where(Shard.id.in_(shard_ids), Shard.state == "queued").values(**FREE))


def withdraw(database: Database, lanes: Collection[str], only_job: int | None = None) -> None:
    """Mark queued shards of these lanes (of one job, or of all) as planned again, which makes their messages void."""
    queued = [Shard.state == "queued", Shard.dispatched_at.is_not(None), Shard.lane.in_(lanes)]
    queued += [] if only_job is None else [Shard.job_id == only_job]
    database.execute(update(Shard).where(*queued).values(**FREE))


def refuse(database: Database, worker_id: str, spec_id: int, reason: str) -> None:
    """Note that a worker cannot serve a spec, and why. A worker that has not signed on is ignored."""
    values = {"reason": normalize(reason)[0], "refused_at": db_now()}

    def work(transaction: Transaction) -> None:
        if transaction.scalar(select(Worker.id).where(Worker.id == worker_id)) is not None:
            refusal = transaction.insert(Refusal).values(worker_id=worker_id, spec_id=spec_id, **values)
            transaction.execute(refusal.on_conflict_do_update(index_elements=["worker_id", "spec_id"], set_=values))

    database.write(work)


def accept(database: Database, worker_id: str, spec_id: int) -> None:
    """Note that a worker can serve a spec after all."""
    database.execute(delete(Refusal).where(Refusal.worker_id == worker_id, Refusal.spec_id == spec_id))


def sign_on(
    database: Database,
    worker_id: str,
    *,
    host: str,
    pid: int,
    device: str,
    lanes: list[str],
    slots: int,
    version: str,
    pid_space: str | None = None,
) -> None:
    """Enter a device process into the list of workers."""
    values: dict[str, Any] = {"host": host, "pid": pid, "device": device, "lanes": lanes, "slots": slots}
    values |= {"version": version, "pid_space": pid_space, "seen_at": db_now()}

    def work(transaction: Transaction) -> None:
        new = transaction.insert(Worker).values(id=worker_id, started_at=db_now(), **values)
        transaction.execute(new.on_conflict_do_update(index_elements=["id"], set_=values))

    database.write(work)


def live_workers(database: Database) -> set[str]:
    """Return the ids of the device processes that sent a heartbeat lately."""
    return set(database.values(_LIVE))


def neighbors(database: Database, pid_space: str) -> list[tuple[str, int]]:
    """Return (worker id, process number) of the workers in one PID namespace."""
    return [(row.id, row.pid) for row in database.rows(_NEIGHBORS, {"pid_space": pid_space})]


def sign_off(database: Database, worker_id: str) -> None:
    """Remove a device process from the list of workers. Its refusals are still shown for a while."""
    database.execute(delete(Worker).where(Worker.id == worker_id))


def unfinished_beside(database: Database, job_id: int, lanes: Collection[str], limit: int) -> list[tuple[int, str]]:
    """Return the ids and sources of other running jobs with open shards in these lanes, the oldest first."""
    to_do = select(Shard.id).where(Shard.job_id == Job.id, Shard.state.in_(OPEN_SHARDS), Shard.lane.in_(lanes))
    with database.read() as transaction:
        rows = transaction.execute(
            select(Job.id, Ingest.source)
            .join(Ingest, Ingest.id == Job.ingest_id)
            .where(RUNS, Job.id != job_id, to_do.exists())
            .order_by(Job.id)
            .limit(limit)
        )
        return [(row.id, row.source) for row in rows]
