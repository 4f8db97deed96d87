"""Claim a shard, renew its lease, commit its outcomes under its fence, or give it back.

Each function may run twice with the same effect as once. A lapsed lease only allows others to reclaim the shard; the
fence decides who may write. A failover or a restored backup may lose commits, and ids and fences then repeat. So a
commit also compares the time of the claim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeAlias

from sqlalchemy import and_, bindparam, select, update

from docmill.storage.core import lookups
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import SPEC, insert_row, known_outcomes, n_chars, runtime_sha256, spec_of
from docmill.storage.core.schema import IS_RUNNING, Content, Job, OutcomeRow, Shard, SpecRow, Step, Worker, db_now
from docmill.storage.core.specs import Known, Outcome, Spec, check_outcome, tally
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import LeaseLost
from docmill.storage.leases.outcome_upsert import put_outcomes, settle
from docmill.storage.leases.policy import runs_alone
from docmill.storage.steps import budgets, steps
from docmill.storage.steps.budgets import AT_LIMIT
from docmill.storage.steps.jobs import FREE, MAY_BEGIN, RUNS
from docmill.storage.steps.propagation import Traversal
from docmill.storage.steps.sharding import UNTOUCHED, extent, unpack

LEASE_S = 60.0
Tokens: TypeAlias = tuple[int, int]  # read, and written


@dataclass(frozen=True)
class ShardHead:
    """The columns of a shard that a worker reads before it claims it."""

    shard_id: int
    fence: int
    lane: str
    alone: bool  # it must run alone (policy.runs_alone)
    spec_id: int
    spec: Spec
    at_limit: bool = False  # its job has reached a cost limit
    request_id: str | None = None  # of its job, as is the trace
    traceparent: str | None = None


@dataclass(frozen=True)
class Claim:
    """A shard that `owner` holds until the lease lapses, with the texts that lack an outcome."""

    shard_id: int
    job_id: int
    fence: int
    owner: str
    attempt: int
    redo: bool
    spec_id: int
    contents: tuple[int, ...]
    texts: tuple[tuple[int, str], ...]
    started_at: float  # by the database's clock
    spent: Tokens = (0, 0)  # by earlier claims of the shard

    def holds(self, row: Any) -> bool:
        """Return True if the shard's row is still as this claim left it."""
        return row is not None and row.state == "running" and self._is_of(row)

    def was_committed(self, row: Any) -> bool:
        return row.state == "done" and row.owner == self.owner and self._is_of(row)

    def _is_of(self, row: Any) -> bool:
        return (row.fence, row.started_at) == (self.fence, self.started_at)


def look(database: Database, shard_id: int) -> ShardHead | None:
    """Return a shard that waits to be claimed; None if it no longer waits."""
    row = database.row(_LOOK, {"shard": shard_id})
    if row is None:
        return None
    return ShardHead(
        shard_id=row.id,
        fence=row.fence,
        lane=row.lane,
        alone=runs_alone(suspect=row.suspect, lapses=row.lapses),
        spec_id=row.spec_id,
        spec=spec_of(row),
        at_limit=row.at_limit,
        request_id=row.request_id,
        traceparent=row.traceparent,
    )


_LOOK = (
    select(
        *(Shard.id, Shard.fence, Shard.lane, Shard.suspect, Shard.lapses, Shard.spec_id),
        *(AT_LIMIT.label("at_limit"), Job.request_id, Job.traceparent, *SPEC),
    )
    .join(SpecRow, SpecRow.id == Shard.spec_id)
    .join(Job, Job.id == Shard.job_id)
    .where(Shard.id == bindparam("shard"), Shard.state == "queued", RUNS)
)


def claim(database: Database, head: ShardHead, owner: str, lease_s: float = LEASE_S) -> Claim | None:
    """Claim the shard if it is unchanged since `look`. Return None if another worker was faster.

    Return None, too, if its job has since reached a cost limit.
    """
    tries = 0

    def work(transaction: Transaction) -> Claim | None:
        nonlocal tries
        tries += 1
        values = {"shard": head.shard_id, "seen": head.fence, "owner": owner, "lease_s": lease_s}
        row: Any = transaction.execute(_TAKE, values).one_or_none()
        if row is None and tries > 1:
            # An earlier try may have succeeded although its answer was lost. A first try does not look for this:
            # the claim might be that of another thread of this process, which has the same owner.
            row = transaction.execute(
                select(*_CLAIMED).where(
                    Shard.id == head.shard_id,
                    Shard.state == "running",
                    Shard.fence == head.fence + 1,
                    Shard.owner == owner,
                )
            ).one_or_none()
        if row is None:
            return None
        contents = tuple(unpack(row.contents))
        return Claim(
            shard_id=head.shard_id,
            job_id=row.job_id,
            fence=row.fence,
            owner=owner,
            attempt=row.attempt,
            redo=row.redo,
            spec_id=head.spec_id,
            contents=contents,
            texts=_read_lacking(transaction, head.spec_id, contents, redo=row.redo),
            started_at=row.started_at,
            spent=(row.tokens_in, row.tokens_out),
        )

    return database.write(work)


_TOKENS = (Shard.tokens_in, Shard.tokens_out)
_CLAIMED = (Shard.job_id, Shard.fence, Shard.attempt, Shard.redo, Shard.contents, Shard.started_at, *_TOKENS)

_JOB_RUNS = select(Job.id).where(Job.id == Shard.job_id, RUNS).correlate(Shard).exists()
_JOB_MAY_BEGIN = select(Job.id).where(Job.id == Shard.job_id, MAY_BEGIN).correlate(Shard).exists()
_TAKE = (
    update(Shard)
    .where(Shard.id == bindparam("shard"), Shard.state == "queued", Shard.fence == bindparam("seen"), _JOB_MAY_BEGIN)
    .values(
        state="running",
        fence=Shard.fence + 1,
        attempt=Shard.attempt + 1,
        lease_until=db_now() + bindparam("lease_s"),
        started_at=db_now(),
    )
    .returning(*_CLAIMED)
)


def _read_lacking(
    transaction: Transaction, spec_id: int, contents: Sequence[int], *, redo: bool
) -> tuple[tuple[int, str], ...]:
    settled = select(OutcomeRow.content_id).where(OutcomeRow.spec_id == spec_id, OutcomeRow.content_id == Content.id)
    if redo:
        settled = settled.where(OutcomeRow.status != "failed")
    # OFFSET 0: one look-up for each content, as in `Transaction.probe`.
    query = select(Content.id, Content.text).where(~settled.offset(0).correlate(Content).exists())
    rows = transaction.probe(query, Content.id, contents)
    return tuple(sorted((row.id, row.text) for row in rows))


def heartbeat(
    database: Database,
    owner: str,
    lease_s: float = LEASE_S,
    *,
    only: Collection[int] | None = None,
    consumes: bool = True,
    trouble: str | None = None,
    computed: Mapping[int, float] | None = None,
    device_problem: str | None = None,
    time_use: Mapping[str, float] | None = None,
) -> dict[int, int]:
    """Renew the leases of one process, and note that it lives. Return {shard id: fence} of the shards it holds.

    With `consumes` note also that it takes shards from the queue. `only` names the shards that the process knows it
    holds, so that the lease of a claim whose answer was lost lapses. Leases of a stopped job are not renewed.
    `trouble` is the store's error when the process writes, `device_problem` the reason why its device cannot compute.
    `computed` counts, by job, the texts that are computed and not yet committed; a text may count in part.
    `time_use` has the seconds of the last minute by their use.
    """

    def work(transaction: Transaction) -> dict[int, int]:
        done = {str(job_id): round(texts, 3) for job_id, texts in (computed or {}).items()}
        signs: dict[str, Any] = {"trouble": trouble, "computed": done, "device_problem": device_problem}
        signs |= {} if time_use is None else {"time_use": dict(time_use)}
        transaction.execute(_CONSUMES if consumes else _LIVES, {"worker": owner, **signs})
        renewal = _RENEWAL if only is None else _RENEWAL_OF_KNOWN
        held = transaction.execute(renewal, {"holder": owner, "lease_s": lease_s, "only": only})
        return {row.id: row.fence for row in held}

    return database.write(work)


_LIVES = update(Worker).where(Worker.id == bindparam("worker")).values(seen_at=db_now())
_CONSUMES = _LIVES.values(consumed_at=db_now())
_RENEWAL = (
    update(Shard)
    .where(Shard.owner == bindparam("holder"), IS_RUNNING, _JOB_RUNS)
    .values(lease_until=db_now() + bindparam("lease_s"))
    .returning(Shard.id, Shard.fence)
)
_RENEWAL_OF_KNOWN = _RENEWAL.where(Shard.id.in_(bindparam("only")))


def commit(
    database: Database,
    claim: Claim,
    outcomes: Sequence[Outcome],
    runtime: Mapping[str, Any] | None,
    kept: Collection[int] = (),
) -> None:
    """Write the outcomes of a claimed shard and end it. Raises LeaseLost, and writes nothing, if the claim was lost.

    `runtime` describes what computed them (see `docmill.storage.core.lookups.runtime_id`).
    `kept` names the contents whose outcomes `keep` wrote. They are written again only if the store lost them.
    If the connection breaks during the commit, run this again: a shard that is done keeps its fence and owner, so
    that the second call sees that the first succeeded.
    """

    def work(transaction: Transaction, one_by_one: bool) -> None:
        row = _lock(transaction, claim.shard_id)
        if row is None:
            raise LeaseLost(f"shard {claim.shard_id} was removed with its corpus before its results were written")
        if claim.was_committed(row):
            return
        if not claim.holds(row) or not row.job_runs:
            raise LeaseLost(f"shard {claim.shard_id} was taken away before its results were written")
        written = _put_outcomes(transaction, row.lane, claim, outcomes, runtime, kept, one_by_one=one_by_one)
        new_tokens = _count_new(claim, row, outcomes)
        end_shard(transaction, claim.shard_id, claim.spec_id, claim.contents, new_tokens, written)

    settle(database, work)


def keep(
    database: Database,
    finished: Sequence[tuple[Claim, Sequence[Outcome], Mapping[str, Any] | None, Collection[int]]],
) -> set[Claim]:
    """Write the finished outcomes of shards before their end, so that they are not computed again.

    Each claim comes with its outcomes so far, their runtime, and the contents whose outcomes were kept before. Return
    the claims whose outcomes are stored. A lost claim, or one whose shard another transaction locks, stores none.
    Give the same outcomes to `commit` or `release` later, which plan the steps that read the outputs.
    """
    claims = {claim.shard_id: claim for claim, *_ in finished}

    def work(transaction: Transaction, one_by_one: bool) -> set[Claim]:
        query = transaction.for_update(_HELD, of=Shard, skip_locked=True)
        rows = [(claims[row.id], row) for row in transaction.execute(query, {"shards": [*claims]})]
        held = {claim: row for claim, row in rows if claim.holds(row) and row.job_runs}
        used = [runtime for claim, _, runtime, _ in finished if claim in held and runtime]
        runtimes = {runtime_sha256(runtime): runtime for runtime in used}
        # In one order everywhere, so that two processes with the same new runtimes cannot deadlock.
        runtime_ids = {key: _runtime_id(transaction, runtimes[key]) for key in sorted(runtimes)}
        groups: dict[tuple[int, bool, int], dict[int, Outcome]] = {}
        for claim, outcomes, runtime, kept in finished:
            if claim in held:
                runtime_id = runtime_ids[runtime_sha256(runtime)] if runtime else None
                group = groups.setdefault((claim.spec_id, claim.redo, runtime_id or 0), {})
                output = transaction.kind_of(held[claim].lane).output
                group |= {o.content_id: check_outcome(o, output) for o in outcomes if o.content_id not in kept}
        for (spec_id, redo, runtime_id), group in sorted(groups.items(), key=itemgetter(0)):
            stored = [*group.values()]
            put_outcomes(transaction, spec_id, stored, runtime_id or None, redo=redo, one_by_one=one_by_one)
        new = {claim: _count_new(claim, held[claim], outcomes) for claim, outcomes, *_ in finished if claim in held}
        _charge(transaction, {claim.shard_id: tokens for claim, tokens in new.items()})
        return {*held}

    return settle(database, work)


def release(
    database: Database,
    claim: Claim,
    finished: Sequence[Outcome] = (),
    runtime: Mapping[str, Any] | None = None,
    kept: Collection[int] = (),
) -> bool:
    """Give a shard back with its finished outcomes, as a drain does. No attempt is counted.

    Return False, and write nothing, if the claim no longer holds. `runtime` and `kept` are as in `commit`.
    """

    def work(transaction: Transaction, one_by_one: bool) -> bool:
        row = _lock(transaction, claim.shard_id)
        if not claim.holds(row):
            return False
        _put_outcomes(transaction, row.lane, claim, finished, runtime, kept, one_by_one=one_by_one)
        lacking = {content_id for content_id, _ in claim.texts} - {outcome.content_id for outcome in finished}
        if end_settled(transaction, claim.shard_id, lacking, _count_new(claim, row, finished)):
            give_back(transaction, claim.shard_id, attempt=Shard.attempt - 1)
        return True

    return settle(database, work)


def _count_new(claim: Claim, row: Any, outcomes: Sequence[Outcome]) -> Tokens:
    """Return the tokens of a claim's outcomes, less those that the shard's row already counts."""
    tokens_in = claim.spent[0] + sum(outcome.tokens_in for outcome in outcomes)
    tokens_out = claim.spent[1] + sum(outcome.tokens_out for outcome in outcomes)
    return tokens_in - row.tokens_in, tokens_out - row.tokens_out


def _charge(transaction: Transaction, new_tokens: Mapping[int, Tokens]) -> None:
    """Count the tokens of running shards that cost something, and charge them."""
    costs: dict[int, float] = defaultdict(float)
    for row in transaction.execute(_PRICES, {"shards": [*new_tokens]}).all():
        more_in, more_out = new_tokens[row.id]
        transaction.execute(_SPEND, {"shard": row.id, "more_in": more_in, "more_out": more_out})
        costs[row.job_id] += budgets.cost(row.price, more_in, more_out)
    if costs:
        budgets.charge(transaction, costs)


_SPENT = {"tokens_in": Shard.tokens_in + bindparam("more_in"), "tokens_out": Shard.tokens_out + bindparam("more_out")}
_SPEND = update(Shard).where(Shard.id == bindparam("shard")).values(**_SPENT)
_PRICES = (
    select(Shard.id, Shard.job_id, Step.price)
    .join(Step, and_(Step.job_id == Shard.job_id, Step.seq == Shard.step))
    .where(Shard.id.in_(bindparam("shards")), Step.price.is_not(None))
)


def end_settled(
    transaction: Transaction, shard_id: int, lacking: Collection[int], new_tokens: Tokens | None = None
) -> list[int]:
    """End a running shard as far as its contents have an outcome. Return those that are `lacking` one.

    The others become a shard of their own that is done, so that counts and later steps have them at once. That
    shard takes the tokens spent so far; the rest starts at zero.
    """
    shard = transaction.execute(select(Shard).where(Shard.id == shard_id)).one()
    contents = unpack(shard.contents)
    rest = [content_id for content_id in contents if content_id in lacking]
    settled = [content_id for content_id in contents if content_id not in lacking]
    if rest and settled:
        names = ("job_id", "step", "spec_id", "lane", "redo", "started_at", "tokens_in", "tokens_out")
        copied = {name: getattr(shard, name) for name in names}
        sizes = n_chars(transaction, contents)
        left = extent(rest, sizes) | {"tokens_in": 0, "tokens_out": 0}
        transaction.execute(update(Shard).where(Shard.id == shard_id).values(**left))
        ended = UNTOUCHED | copied | extent(settled, sizes) | {"state": "running"}
        shard_id = insert_row(transaction, Shard, **ended)
    if settled:
        end_shard(transaction, shard_id, shard.spec_id, settled, new_tokens)
    return rest


def give_back(transaction: Transaction, shard_id: int, **values: Any) -> None:
    """Mark a running shard as planned again, and raise its fence, so that its holder cannot commit it."""
    transaction.execute(update(Shard).where(Shard.id == shard_id).values(**FREE | values))


def end_shard(
    transaction: Transaction,
    shard_id: int,
    spec_id: int,
    contents: Sequence[int],
    new_tokens: Tokens | None = None,
    written: Mapping[int, Known] | None = None,
) -> None:
    """End a shard whose contents all have an outcome: count the outcomes, and plan the steps that read them.

    `new_tokens` are those that it does not count yet. None leaves budgets alone: a transaction that ends many shards
    would lock their budgets in any order. The statuses in `written` are not read again.
    """
    known = dict(written or {})
    known |= known_outcomes(transaction, spec_id, [content_id for content_id in contents if content_id not in known])
    left: dict[str, Any] = {}
    if len(known) < len(contents):
        sizes = n_chars(transaction, contents)  # without contents that were removed
        assert sizes.keys() == known.keys(), "a shard ends with an outcome for each of its contents"
        left = extent([content_id for content_id in contents if content_id in sizes], sizes)
    counts = {f"n_{name}": n for name, n in tally(known.values()).items()}
    more = dict(zip(("more_in", "more_out"), new_tokens or (0, 0), strict=True))
    shard = transaction.execute(_END, {"shard": shard_id, **more, **counts, **left}).one()
    traversal = Traversal(transaction, shard.job_id, steps.read_steps(transaction, shard.job_id))
    traversal.follow(shard.step, known, redo=shard.redo)
    if (doubtful := traversal.count_doubtful(shard.step, [*known], redo=shard.redo)) is not None:
        transaction.execute(update(Shard).where(Shard.id == shard_id).values(n_doubtful=doubtful))
    whole: Tokens = (shard.tokens_in, shard.tokens_out)
    if new_tokens is not None and any(whole) and (price := traversal.price_of(shard.step)) is not None:
        new, ended = budgets.cost(price, *new_tokens), budgets.cost(price, *whole)
        budgets.charge(transaction, {shard.job_id: new}, [ended])


_END = (
    update(Shard)
    .where(Shard.id == bindparam("shard"))
    .values(
        state="done",
        lease_until=None,
        finished_at=db_now(),
        **_SPENT,
    )
    .returning(Shard.job_id, Shard.step, Shard.redo, *_TOKENS)
)


_HELD = (
    select(
        *(Shard.id, Shard.state, Shard.lane, Shard.fence, Shard.owner, Shard.started_at, *_TOKENS),
        RUNS.label("job_runs"),
    )
    .join(Job, Job.id == Shard.job_id)
    .where(Shard.id.in_(bindparam("shards")))
)


def _lock(transaction: Transaction, shard_id: int) -> Any:
    query = transaction.for_update(_HELD, of=Shard)
    return transaction.execute(query, {"shards": [shard_id]}).one_or_none()


def _put_outcomes(
    transaction: Transaction,
    kind: str,
    claim: Claim,
    outcomes: Sequence[Outcome],
    runtime: Mapping[str, Any] | None,
    kept: Collection[int],
    *,
    one_by_one: bool,
) -> dict[int, Known]:
    output = transaction.kind_of(kind).output
    stored = known_outcomes(transaction, claim.spec_id, sorted(kept)) if kept else {}
    new = [check_outcome(outcome, output) for outcome in outcomes if outcome.content_id not in stored]
    runtime_id = _runtime_id(transaction, runtime) if new else None
    written = put_outcomes(transaction, claim.spec_id, new, runtime_id, redo=claim.redo, one_by_one=one_by_one)
    return stored | written


def _runtime_id(transaction: Transaction, runtime: Mapping[str, Any] | None) -> int | None:
    # Not remembered from an earlier transaction: a database that failed over, or was restored, may not have it.
    return lookups.runtime_id(transaction, runtime) if runtime else None
