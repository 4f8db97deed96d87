"""The shard's life in any order: which move comes next, and with what."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from docmill.storage.core.database import Database
from docmill.storage.leases.shards import Claim, ShardHead
from docmill.storage.steps.jobs import JobRequest
from tests.storage.bench import Bench, Reading
from tests.storage.builders import COPY, TRANSLATE, Text, request
from tests.storage.model import LANES

MOST_JOBS = 8
MOST_UNFINISHED = 3

owners = st.sampled_from(["w1", "w2", "w3"])
picks = st.integers(0, 7)
fates = st.lists(st.sampled_from(["done", "document", "transient", "skipped"]), min_size=1, max_size=3)
ends = st.sampled_from(["commit", "release", "fail", "keep and commit", "keep and release", "keep", "commit"])
words = st.sampled_from(["one", "two", "three", "four", "five", "a longer one", "fills a shard of its own", "eight"])
texts = st.lists(st.tuples(st.sampled_from("abcdefgh"), words), min_size=1, max_size=16)
changes = st.sampled_from(
    [
        ("retry", None),
        ("resume",),
        ("pause",),
        ("retry", "transient"),
        ("retry", "document"),
        ("prioritize", 0),
        ("prioritize", 2),
        ("halt",),
        ("cancel",),
    ]
)
requests = st.builds(
    request,
    st.sampled_from(["left", "right"]),
    corpus=st.sampled_from(["books", "poems"]),
    spec=st.sampled_from([COPY, TRANSLATE]),
    priority=st.integers(0, 1),
    max_failures=st.sampled_from([None, 30.0]),
)


class ShardLife(RuleBasedStateMachine):
    readings: Bundle[Reading] = Bundle("readings")
    heads: Bundle[ShardHead] = Bundle("heads")
    claims: Bundle[Claim] = Bundle("claims")
    spent: Bundle[Claim] = Bundle("spent")  # committed, released or failed

    database: ClassVar[Database]

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(self.database)

    @invariant()
    def the_store_is_as_it_must_be(self) -> None:
        self.bench.compare()

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # a move that failed has said enough
            self.bench.let_everything_finish()

    def job(self, pick: int) -> int:
        """One of the jobs, first of those that have not ended."""
        jobs = self.bench.model.jobs
        known = sorted(jobs, key=lambda job_id: (jobs[job_id].is_over, job_id))
        return known[pick % len(known)]

    def shards(self, pick: int, n: int = 1) -> list[int]:
        """Some shards, first of those in the queue."""
        pieces = self.bench.model.pieces
        return sorted(pieces, key=lambda shard_id: (pieces[shard_id].state != "queued", shard_id))[pick : pick + n]

    def may_read(self) -> bool:
        jobs = self.bench.model.jobs.values()
        return len(jobs) < MOST_JOBS and sum(not job.is_over for job in jobs) < MOST_UNFINISHED

    def lane(self, pick: int) -> str:
        """A lane, first of those where something waits."""
        model = self.bench.model
        waiting = [lane for lane in LANES if model.ready(lane) or model.in_lane(lane, "queued")]
        return (waiting or LANES)[pick % len(waiting or LANES)]

    # Sources

    @initialize(asked=requests, texts=texts, is_asked_of_another=st.booleans())
    def read_a_first_source(self, asked: JobRequest, texts: list[Text], is_asked_of_another: bool) -> None:
        self.read_a_source(asked, texts)
        if is_asked_of_another:
            self.read_a_source(replace(asked, corpus="the same in another corpus"), texts)

    @precondition(may_read)
    @rule(asked=requests, texts=texts)
    def read_a_source(self, asked: JobRequest, texts: list[Text]) -> None:
        reading = self.bench.open(asked, texts)
        while self.bench.read_on(reading):
            pass

    @precondition(may_read)
    @rule(target=readings, asked=requests, texts=texts, chunk=st.integers(1, 3), n=st.integers(0, 3))
    def begin_to_read(self, asked: JobRequest, texts: list[Text], chunk: int, n: int) -> Any:
        reading = self.bench.open(asked, texts, chunk)
        return _some([reading if all(self.bench.read_on(reading) for _ in range(n)) else None])

    @rule(target=readings, reading=consumes(readings), n=st.integers(1, 3))
    def read_on(self, reading: Reading, n: int) -> Any:
        return _some([reading if all(self.bench.read_on(reading) for _ in range(n)) else None])

    # Dispatch

    @rule(
        pick=picks,
        n=st.integers(1, 3),
        act=st.sampled_from(["top_up", "top_up", "put_back", "lose", "lose"]),
        is_late=st.booleans(),
    )
    def dispatch(self, pick: int, n: int, act: str, is_late: bool) -> None:
        if act == "top_up":
            self.bench.top_up(self.lane(pick), stale=is_late)
        elif act == "put_back":
            self.bench.put_back(self.shards(pick, n))
        else:
            self.bench.age(self.shards(pick, n))
            self.bench.send_lost(self.lane(pick), queue_is_empty=is_late)

    @rule(
        workers=st.sets(owners, min_size=1),
        act=st.sampled_from(["sign_on", "sign_off", "refuse", "accept"]),
        some=st.sampled_from([LANES[:1], LANES]),
        slots=st.integers(1, 3),
        pick=picks,
    )
    def serve(self, workers: set[str], act: str, some: tuple[str, ...], slots: int, pick: int) -> None:
        for worker in sorted(workers):
            if act == "sign_on":
                self.bench.sign_on(worker, some, slots)
            elif act == "sign_off":
                self.bench.sign_off(worker)
            else:
                getattr(self.bench, act)(worker, self.bench.model.jobs[self.job(pick)].spec)
        self.bench.top_up(self.lane(pick))

    # Claims

    @rule(target=heads, pick=picks)
    def look(self, pick: int) -> Any:
        return _some(self.bench.look_at(shard_id) for shard_id in self.shards(pick))

    @rule(target=claims, head=consumes(heads), owner=owners, other=st.none() | owners)
    def claim(self, head: ShardHead, owner: str, other: str | None) -> Any:
        """Claim what was looked at, perhaps after another had it for a while."""
        found = self.bench.look_at(head.shard_id)
        if other is not None and found is not None:
            self.bench.claim(found, other)
            self.bench.release_owner(other)
            self.bench.top_up(head.lane)
        return _some([self.bench.claim(head, owner)])

    @rule(target=claims, pick=picks, owner=owners, n=st.integers(1, 3))
    def claim_the_next(self, pick: int, owner: str, n: int) -> Any:
        return _some(self.bench.claim_next(self.lane(pick), owner) for _ in range(n))

    @rule(owner=owners, only=st.none() | st.lists(claims, max_size=2))
    def heartbeat(self, owner: str, only: list[Claim] | None) -> None:
        self.bench.heartbeat(owner, None if only is None else [claim.shard_id for claim in only])

    @rule(target=spent, claim=consumes(claims), act=ends, fates=fates)
    def end(self, claim: Claim, act: str, fates: list[str]) -> Claim:
        outcomes = self.bench.outcomes(claim, fates)
        if act.startswith("keep"):
            self.bench.keep(claim, outcomes[: len(fates)])
        if act.endswith("commit"):
            self.bench.commit(claim, outcomes)
        elif act.endswith("release"):
            self.bench.release(claim, outcomes[: len(fates) - 1])
        elif act == "fail":
            self.bench.fail(claim)
        return claim

    @rule(claim=spent, act=ends, fates=fates)
    def come_late(self, claim: Claim, act: str, fates: list[str]) -> None:
        self.end(claim, act, fates)

    @rule(target=spent, pick=picks, owner=owners, acts=st.lists(ends, min_size=1, max_size=6), fates=fates)
    def attempt_some(self, pick: int, owner: str, acts: list[str], fates: list[str]) -> Any:
        claims = [self.bench.claim_next(self.lane(pick), owner) for _ in acts]
        ended = []
        for claim, act in zip(claims, acts, strict=True):
            fates = [*fates[1:], fates[0]]
            ended += [] if claim is None else [self.end(claim, act, fates)]
        return multiple(*ended)

    @rule(
        target=claims,
        pick=picks,
        owner=owners,
        how=st.sampled_from(["kill", "release_owner", "lapse", "kill", "oversleep"]),
        n=st.integers(0, 4),
        heir=st.none() | owners,
        late=st.none() | ends,
        fates=fates,
    )
    def lose(
        self, pick: int, owner: str, how: str, n: int, heir: str | None, late: str | None, fates: list[str]
    ) -> Any:
        """A process loses what it has, and what it claims next, again and again. Another one goes on, and the first
        ends its work as if nothing had been.
        """
        lost = None
        lose = getattr(self.bench, how)
        lose(owner)
        for _ in range(n):
            lost = self.bench.claim_next(self.lane(pick), owner)
            if lost is not None and late is not None and late.startswith("keep"):
                self.bench.keep(lost, self.bench.outcomes(lost, fates)[: len(fates)])
            lose(owner)
        taken = None if heir is None else self.bench.claim_next(self.lane(pick), heir)
        if lost is not None and late is not None:
            self.end(lost, late, fates)
        return _some([taken])

    # Jobs

    @rule(act=st.sampled_from(["finish", "reclaim_lapsed", "let_time_pass"]))
    def keep_up(self, act: str) -> None:
        getattr(self.bench, act)()

    @rule(pick=picks, change=changes, deaths=st.integers(0, 3))
    def change(self, pick: int, change: tuple[str, *tuple[Any, ...]], deaths: int) -> None:
        act, *more = change
        job_id = self.job(pick)
        lane = self.bench.model.jobs[job_id].lane
        getattr(self.bench, act)(job_id, *more)
        if act == "retry":
            self.bench.finish()
            for _ in range(deaths):
                self.bench.claim_next(lane, "w1")
                self.bench.kill("w1")
        elif act == "prioritize":
            self.bench.top_up(lane)


def _some(found: Iterable[Any]) -> Any:
    """Return the values that a bundle gains."""
    return multiple(*(one for one in found if one is not None))
