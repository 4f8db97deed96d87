"""A model of jobs, shards and outcomes in a few dictionaries, to compare with the store after each step.

It says nothing of the order in which shards are dispatched; that has laws of its own (`assert_fair`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, ShardSize
from docmill.storage.leases.shards import Claim
from tests.kinds import sized
from tests.storage.laws import TALLY, Picture

LANES = ("copy", "translate")
SMALL = sized(copy=ShardSize(2, 30), translate=ShardSize(1, 1_000))
MAX_ATTEMPTS = 2
LAPSES_TOGETHER = 2
MAX_LAPSES = 4
UNFINISHED = ("ingesting", "running")
Fate = tuple[str, str | None, str | None]  # status, text, class of the reason


def make_small(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of one text or two, which give up soon."""
    monkeypatch.setattr(database, "kinds", SMALL)
    monkeypatch.setattr("docmill.storage.leases.policy.MAX_ATTEMPTS", MAX_ATTEMPTS)
    monkeypatch.setattr("docmill.storage.leases.policy.LAPSES_TOGETHER", LAPSES_TOGETHER)
    monkeypatch.setattr("docmill.storage.leases.policy.MAX_LAPSES", MAX_LAPSES)


@dataclass
class ModelJob:
    """A job."""

    spec: int
    lane: str
    priority: int
    max_failures: float | None
    state: str = "ingesting"
    is_read: bool = False
    paused: bool = False
    prior: Counter[str] = field(default_factory=Counter)
    n_retried: int = 0
    met: set[int] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        return self.state not in UNFINISHED

    @property
    def runs(self) -> bool:
        return not self.is_over and not self.paused


@dataclass
class Piece:
    """A shard. It `waits` after an error; its lease has `lapsed`; its hint is `old`."""

    job: int
    contents: tuple[int, ...]
    redo: bool
    state: str = "planned"
    fence: int = 0
    attempt: int = 0
    suspect: int = 0
    lapses: int = 0
    owner: str | None = None
    tally: tuple[int, ...] = (0, 0, 0)
    waits: bool = False
    lapsed: bool = False
    old: bool = False

    def give_back(self, *, attempt: int = 0) -> None:
        self.state, self.owner, self.lapsed = "planned", None, False
        self.fence += 1
        self.attempt += attempt


class Model:
    def __init__(self) -> None:
        self.jobs: dict[int, ModelJob] = {}
        self.pieces: dict[int, Piece] = {}
        self.outcomes: dict[tuple[int, int], Fate] = {}
        self.workers: dict[str, tuple[list[str], int]] = {}
        self.refused: set[tuple[str, int]] = set()

    def assert_is(self, picture: Picture) -> None:
        """The store is as the model."""
        assert picture.outcomes == self.outcomes
        assert picture.jobs.keys() == self.jobs.keys()
        for job_id, job in self.jobs.items():
            row = picture.jobs[job_id]
            assert picture.met(job_id) == job.met, row
            assert (row.state, row.paused, row.priority, row.n_retried) == (
                job.state,
                job.paused,
                job.priority,
                job.n_retried,
            ), row
            prior = {"done": row.n_prior_done, "failed": row.n_prior_failed, "skipped": row.n_prior_skipped}
            assert job.prior == Counter(prior), row
        assert picture.shards.keys() == self.pieces.keys(), "no shard comes from nowhere"
        for shard_id, piece in self.pieces.items():
            row = picture.shards[shard_id]
            assert picture.contents[shard_id] == piece.contents, row
            assert tuple(getattr(row, column) for column in TALLY) == piece.tally, row
            assert (row.state, row.redo, row.fence, row.attempt, row.suspect, row.lapses, row.owner) == (
                piece.state,
                piece.redo,
                piece.fence,
                piece.attempt,
                piece.suspect,
                piece.lapses,
                piece.owner,
            ), row

    def learn(self, picture: Picture, contents: Iterable[int], **known: object) -> list[int]:
        """Take up the new shards, which hold these contents, each once, and are otherwise as is `known`."""
        new = [row for shard_id, row in picture.shards.items() if shard_id not in self.pieces]
        for row in new:
            assert {name: getattr(row, name) for name in known} == known, row
            counts = {"suspect": row.suspect, "lapses": row.lapses}
            self.pieces[row.id] = Piece(row.job_id, picture.contents[row.id], row.redo, **counts)
        assert sorted(picture.held(new).elements()) == sorted(contents)
        return [row.id for row in new]

    def pieces_of(self, job_id: int, *states: str) -> list[Piece]:
        return [piece for piece in self.pieces.values() if piece.job == job_id and piece.state in states]

    def known(self, job_id: int, content_id: int) -> str | None:
        """The status of a content under a job's spec."""
        fate = self.outcomes.get((self.jobs[job_id].spec, content_id))
        return None if fate is None else fate[0]

    def lacking(self, piece: Piece) -> list[int]:
        """Return the contents that a claim of this shard still has to compute."""
        nothing_yet = {None, "failed"} if piece.redo else {None}
        return sorted(content for content in piece.contents if self.known(piece.job, content) in nothing_yet)

    # A shard's life

    def can_claim(self, shard_id: int, fence: int) -> bool:
        piece = self.pieces[shard_id]
        return piece.state == "queued" and piece.fence == fence and self.jobs[piece.job].runs

    def claim(self, shard_id: int, owner: str) -> Piece:
        piece = self.pieces[shard_id]
        piece.state, piece.owner = "running", owner
        piece.fence += 1
        piece.attempt += 1
        return piece

    def holds(self, claim: Claim) -> bool:
        piece = self.pieces[claim.shard_id]
        return piece.state == "running" and piece.fence == claim.fence

    def has_ended_it(self, claim: Claim) -> bool:
        piece = self.pieces[claim.shard_id]
        return piece.state == "done" and (piece.fence, piece.owner) == (claim.fence, claim.owner)

    def put(self, piece: Piece, outcomes: Iterable[Outcome]) -> None:
        """The first write wins, done replaces failed, and what is tried again replaces failed whatever it is."""
        for outcome in outcomes:
            before = self.known(piece.job, outcome.content_id)
            if before is None or (before == "failed" and (piece.redo or outcome.status == "done")):
                reason_class = None if outcome.reason_class is None else str(outcome.reason_class)
                key = self.jobs[piece.job].spec, outcome.content_id
                self.outcomes[key] = str(outcome.status), outcome.text, reason_class

    def end(self, piece: Piece) -> None:
        statuses = [self.known(piece.job, content_id) for content_id in piece.contents]
        piece.state, piece.lapsed = "done", False
        piece.tally = tuple(statuses.count(status) for status in ("done", "failed", "skipped"))

    def give_up(self, piece: Piece, reason_class: str) -> None:
        for content_id in self.lacking(piece):
            self.outcomes[self.jobs[piece.job].spec, content_id] = "failed", None, reason_class
        piece.fence += 1
        piece.owner = None
        self.end(piece)

    def die(self, piece: Piece) -> bool:
        """The process died that held it. Says whether it was split, its parts still unknown."""
        if len(piece.contents) > 1:
            piece.give_back()
            piece.state = "split"
        elif piece.suspect < 2:
            piece.suspect += 1
            piece.give_back()
        else:
            self.give_up(piece, "document")
        return piece.state == "split"

    def lapse(self, piece: Piece) -> bool:
        """The lease lapsed. Says whether the shard was split, its parts still unknown."""
        piece.lapses += 1
        piece.attempt -= 1
        if piece.lapses < LAPSES_TOGETHER:
            piece.give_back()
        elif len(piece.contents) > 1:
            piece.give_back()
            piece.state = "split"
        elif piece.lapses < MAX_LAPSES:
            piece.give_back()
            piece.waits = True
        else:
            self.give_up(piece, "transient")
        return piece.state == "split"

    def fail(self, piece: Piece) -> None:
        """An attempt ended with an error."""
        if piece.attempt < MAX_ATTEMPTS:
            piece.give_back()
            piece.waits = True
        else:
            self.give_up(piece, "transient")

    # A job's life

    def take_away(self, job_id: int) -> None:
        for piece in self.pieces_of(job_id, "running"):
            piece.give_back(attempt=-1)
        for piece in self.pieces_of(job_id, "queued"):
            piece.give_back()

    def stop(self, job_id: int, state: str) -> bool:
        job = self.jobs[job_id]
        if job.is_over:
            return False
        job.state, job.paused = state, False
        self.take_away(job_id)
        return True

    def finish(self) -> list[int]:
        for job_id, job in self.jobs.items():
            if job.max_failures is not None and self._fails(job_id, job, job.max_failures):
                self.stop(job_id, "stopped")
        ended = [job_id for job_id, job in self.jobs.items() if job.state == "running" and not self.is_open(job_id)]
        for job_id in ended:
            self.jobs[job_id].state, self.jobs[job_id].paused = "done", False
        return ended

    def _fails(self, job_id: int, job: ModelJob, percent: float) -> bool:
        """More than so many percent of what was planned failed. What is being tried again did not fail yet."""
        pieces = self.pieces_of(job_id, "planned", "queued", "running", "done")
        failed = sum(piece.tally[1] for piece in pieces) - job.n_retried
        total = sum(len(piece.contents) for piece in pieces) - job.n_retried
        return failed > 0 and failed * 100 > total * percent

    def is_open(self, job_id: int) -> bool:
        return bool(self.pieces_of(job_id, "planned", "queued", "running"))

    def open_contents(self, job_id: int) -> set[int]:
        return {c for piece in self.pieces_of(job_id, "planned", "queued", "running") for c in piece.contents}

    # Who is served

    def slots(self, lane: str) -> int:
        return sum(slots for lanes, slots in self.workers.values() if lane in lanes)

    def is_served(self, job: ModelJob) -> bool:
        serving = [worker for worker, (lanes, _) in self.workers.items() if job.lane in lanes]
        return not serving or any((worker, job.spec) not in self.refused for worker in serving)

    def in_lane(self, lane: str, *states: str) -> dict[int, Piece]:
        return {
            shard_id: piece
            for shard_id, piece in self.pieces.items()
            if self.jobs[piece.job].lane == lane and piece.state in states
        }

    def ready(self, lane: str) -> dict[int, Piece]:
        """The shards that may be dispatched now."""
        return {
            shard_id: piece
            for shard_id, piece in self.in_lane(lane, "planned").items()
            if not piece.waits and self.jobs[piece.job].runs and self.is_served(self.jobs[piece.job])
        }

    def take(self, lane: str, taken: Sequence[int], picture: Picture) -> None:
        """These shards of a lane were dispatched, and others perhaps displaced: as the rules of sharing have it."""
        ready, queued = self.ready(lane), self.in_lane(lane, "queued")
        window = max(4, 2 * self.slots(lane))
        highest = max((self.jobs[piece.job].priority for piece in ready.values()), default=0)
        displaced = [shard_id for shard_id in queued if picture.shards[shard_id].state == "planned"]
        assert set(taken) <= ready.keys(), "only what is ready is dispatched"
        assert all(self.jobs[self.pieces[i].job].priority < highest for i in displaced), "room for a higher priority"
        n_highest = sum(self.jobs[self.pieces[shard_id].job].priority == highest for shard_id in taken)
        assert len(displaced) <= n_highest, "no more than is needed"
        for shard_id in taken:
            self.pieces[shard_id].state, self.pieces[shard_id].old = "queued", False
        for shard_id in displaced:
            self.pieces[shard_id].give_back()
        in_queue = self.in_lane(lane, "queued")
        assert len(in_queue) <= max(window, len(queued)), "the window is kept"
        left = {shard_id: piece for shard_id, piece in ready.items() if shard_id not in taken}
        assert not left or len(in_queue) >= window, "the window is filled"
        if any(self.jobs[piece.job].priority == highest for piece in left.values()):
            assert all(self.jobs[piece.job].priority >= highest for piece in in_queue.values()), (
                "the highest go first"
            )
        self._assert_fair(taken, left)

    def _assert_fair(self, taken: Sequence[int], left: dict[int, Piece]) -> None:
        """Of two jobs with one priority none gets a shard while the other, which has some, has less in flight."""
        in_flight = {job_id: len(self.pieces_of(job_id, "queued", "running")) for job_id in self.jobs}
        for one in {self.pieces[shard_id].job for shard_id in taken}:
            for other in {piece.job for piece in left.values()}:
                if self.jobs[one].priority == self.jobs[other].priority:
                    assert in_flight[one] - 1 <= in_flight[other], (one, other)
                assert self.jobs[one].priority >= self.jobs[other].priority, (one, other)
        for job_id in self.jobs:
            mine = [(self.pieces[i].fence == 0, i) for i in taken if self.pieces[i].job == job_id]
            rest = [(piece.fence == 0, i) for i, piece in left.items() if piece.job == job_id]
            again = [one for one in rest if not one[0]]
            assert not mine or not again or max(mine) < min(again), "first those that are dispatched again"
            fresh = [one for one in mine if one[0]]
            assert not any(min(fresh) < one < max(fresh) for one in rest if fresh), "in order"
