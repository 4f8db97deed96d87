"""Moves that are made on a store and on its model at once, and what they say compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest
from sqlalchemy import delete, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base, Shard, db_now
from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import JobStopped, LeaseLost
from docmill.storage.ingest import ingest
from docmill.storage.leases import dispatch, maintenance, shards
from docmill.storage.leases.dispatch import LaneWindow
from docmill.storage.leases.shards import Claim, ShardHead
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest, OpenJob
from tests.storage import laws
from tests.storage.builders import Text, chunks, lapse, set_shard
from tests.storage.endings import let_everything_finish
from tests.storage.laws import Picture
from tests.storage.model import LAPSES_TOGETHER, SMALL, Model, ModelJob, Piece

LEASE_S = 3_600.0  # nothing lapses by itself
LONG_S = 1_000.0


def empty(database: Database) -> None:
    """Delete all that the store holds."""

    def every_table(transaction: Transaction) -> None:
        for table in reversed(Base.metadata.sorted_tables):
            transaction.execute(delete(table))

    database.write(every_table)


@dataclass(eq=False)
class Reading:
    """A source on its way into a job, and the steps that are left of its reading."""

    job: OpenJob
    steps: list[Callable[[], object]]


class Bench:
    """`database` is emptied first."""

    def __init__(self, database: Database) -> None:
        empty(database)
        self.database = database
        self.model = Model()
        self.picture = self.texts = laws.look(database)
        self.requests: dict[int, JobRequest] = {}
        self.being_read: list[Reading] = []
        self.kept: dict[Claim, dict[int, Outcome]] = {}
        self._n_outputs = 0

    def look(self) -> Picture:
        """The store now, with the documents that were there after the last reading."""
        return laws.look(self.database, self.texts)

    def compare(self) -> None:
        """The store is as the model, as the laws have it, and no less than it was."""
        picture = self.look()
        self.model.assert_is(picture)
        laws.assert_lawful(self.database, picture)
        laws.assert_quiet(picture)
        laws.assert_follows(self.picture, picture)
        for job_id in picture.jobs:
            if picture.shape(job_id) != self.picture.shape(job_id):
                laws.assert_adds_up(picture, read_status(self.database, job_id))
        self.picture = picture

    # Sources

    def open(self, asked: JobRequest, texts: list[Text], chunk: int = 8) -> Reading:
        """Open a job, or adopt it: then whoever read it before may be dead, or go on reading."""
        job = jobs.open_job(self.database, asked)
        unfinished = [
            job_id for job_id, other in self.requests.items() if _same(other, asked) and not self.is_over(job_id)
        ]
        assert [job.id] == unfinished[:1] if job.adopted else not unfinished
        if not job.adopted:
            self.model.jobs[job.id] = ModelJob(job.first.spec_id, job.first.lane, asked.priority, asked.max_failures)
        if job.reread_at is None:
            self.model.jobs[job.id].state = "ingesting"
            self.model.jobs[job.id].is_read = False
        self.requests[job.id] = asked
        reading = Reading(job, [partial(ingest.add, self.database, job, part) for part in chunks(texts, chunk)])
        reading.steps.append(lambda: ingest.end(self.database, job))
        self.being_read.append(reading)
        return reading

    def is_over(self, job_id: int) -> bool:
        return self.model.jobs[job_id].is_over

    def read_on(self, reading: Reading) -> bool:
        """Make the next step of a reading. Says whether there are more."""
        step = reading.steps.pop(0)
        if self.model.jobs[reading.job.id].state in {"cancelled", "stopped"}:
            with pytest.raises(JobStopped):
                step()
            reading.steps.clear()
        else:
            self._read(reading, step)
        if not reading.steps:
            self.being_read.remove(reading)
        return bool(reading.steps)

    def _read(self, reading: Reading, step: Callable[[], object]) -> None:
        job_id, job = reading.job.id, self.model.jobs[reading.job.id]
        was_done, n_before = job.state == "done", len(self.texts.documents_of(reading.job.ingest_id))
        said = step()
        after = self.texts = laws.look(self.database)
        if (
            len(after.documents_of(reading.job.ingest_id)) > n_before
        ):  # what was read before is no longer all that there is
            job.state, job.is_read = "ingesting", False
        met = after.met(job_id) - job.met
        job.met |= met
        known = {content_id: self.model.known(job_id, content_id) for content_id in met}
        job.prior.update(status for status in known.values() if status is not None)
        lacking = [content_id for content_id, status in known.items() if status is None]
        size = SMALL[job.lane].shard
        for shard_id in self.model.learn(after, lacking, job_id=job_id, redo=False, suspect=0, state="planned"):
            row = after.shards[shard_id]
            assert row.n_contents <= size.contents
            assert row.n_chars <= size.chars or row.n_contents == 1
        if not reading.steps:
            assert isinstance(said, tuple)
            assert said[0] == len(after.covered(job_id))
            stays_done = was_done and job.state == "done" and not lacking
            job.state, job.is_read = "done" if stays_done else "running", True

    # Dispatch

    def top_up(self, lane: str, *, stale: bool = False) -> None:
        """Dispatch what fits the lane's window, perhaps with an old look at it."""
        found = {found.name: found for found in dispatch.lanes(self.database)}
        assert found.keys() == {job.lane for job in self.model.jobs.values() if job.runs}
        now = LaneWindow(lane, self.model.slots(lane), len(self.model.in_lane(lane, "queued")))
        assert replace(found.get(lane, now), since=0.0) == now
        taken = dispatch.take(self.database, LaneWindow(lane, now.slots, 0) if stale else now)
        self.model.take(lane, taken, self.look())

    def put_back(self, shard_ids: list[int]) -> None:
        dispatch.put_back(self.database, shard_ids)
        for shard_id in shard_ids:
            if self.model.pieces[shard_id].state == "queued":
                self.model.pieces[shard_id].give_back()

    def age(self, shard_ids: list[int]) -> None:
        """The hints of these shards were sent long ago."""
        for shard_id in shard_ids:
            if self.model.pieces[shard_id].state == "queued":
                set_shard(self.database, shard_id, dispatched_at=db_now() - 2 * LONG_S)
                self.model.pieces[shard_id].old = True

    def send_lost(self, lane: str, *, queue_is_empty: bool) -> None:
        rows = self.look().shards
        taken = [rows[i].dispatched_at or 0.0 for i in self.model.in_lane(lane, "running", "done")]
        lost = [
            shard_id
            for shard_id, piece in self.model.in_lane(lane, "queued").items()
            if piece.old and (queue_is_empty or rows[shard_id].dispatched_at < max(taken, default=0.0))
        ]
        sent = maintenance.lost_hints(self.database, lane, queue_is_empty=queue_is_empty, grace_s=LONG_S)
        assert sent == sorted(lost)
        for shard_id in sent:
            self.model.pieces[shard_id].old = False

    def let_time_pass(self) -> None:
        """Make shards that wait after an error ready to be tried again."""
        at_last = update(Shard).where(Shard.state == "planned").values(not_before=0.0)
        self.database.write(lambda transaction: transaction.execute(at_last))
        for piece in self.model.pieces.values():
            piece.waits = False

    def sign_on(self, worker: str, lanes: Sequence[str], slots: int) -> None:
        dispatch.sign_on(
            self.database, worker, host="h", pid=1, device="cpu", lanes=list(lanes), slots=slots, version="0"
        )
        self.model.workers[worker] = list(lanes), slots

    def sign_off(self, worker: str) -> None:
        dispatch.sign_off(self.database, worker)
        self.model.workers.pop(worker, None)

    def refuse(self, worker: str, spec_id: int) -> None:
        dispatch.refuse(self.database, worker, spec_id, "no such model")
        if worker in self.model.workers:
            self.model.refused.add((worker, spec_id))

    def accept(self, worker: str, spec_id: int) -> None:
        dispatch.accept(self.database, worker, spec_id)
        self.model.refused.discard((worker, spec_id))

    # Claims

    def look_at(self, shard_id: int) -> ShardHead | None:
        head, piece = shards.look(self.database, shard_id), self.model.pieces[shard_id]
        assert (head is not None) == self.model.can_claim(shard_id, piece.fence)
        if head is not None:
            spec_id = self.model.jobs[piece.job].spec
            alone = piece.suspect > 0 or piece.lapses >= LAPSES_TOGETHER
            assert (head.fence, head.suspect, head.spec_id) == (piece.fence, alone, spec_id)
        return head

    def claim(self, head: ShardHead, owner: str) -> Claim | None:
        can = self.model.can_claim(head.shard_id, head.fence)
        claim = shards.claim(self.database, head, owner, LEASE_S)
        assert (claim is not None) == can
        if claim is not None:
            piece = self.model.claim(head.shard_id, owner)
            assert (claim.job_id, claim.fence, claim.attempt, claim.suspect, claim.redo, claim.contents) == (
                piece.job,
                piece.fence,
                piece.attempt,
                piece.suspect,
                piece.redo,
                piece.contents,
            )
            assert [content_id for content_id, _ in claim.texts] == self.model.lacking(piece)
        return claim

    def claim_next(self, lane: str, owner: str) -> Claim | None:
        if not self.model.in_lane(lane, "queued"):
            self.top_up(lane)
        for shard_id in self.model.in_lane(lane, "queued"):
            head = self.look_at(shard_id)
            return None if head is None else self.claim(head, owner)
        return None

    def outcomes(self, claim: Claim, fates: Sequence[str]) -> list[Outcome]:
        """One for each text of the claim: `done` with a text that no other has, `skipped`, or a failure's class."""
        return [self._outcome(content_id, fates[i % len(fates)]) for i, (content_id, _) in enumerate(claim.texts)]

    def _outcome(self, content_id: int, fate: str) -> Outcome:
        if fate in set(Reason):
            return Outcome(content_id, Status.FAILED, reason="it would not", reason_class=Reason(fate))
        self._n_outputs += 1
        return Outcome(content_id, Status(fate), text=f"output {self._n_outputs}", tokens_in=2, tokens_out=1)

    def heartbeat(self, owner: str, only: Sequence[int] | None) -> None:
        held = {
            shard_id: piece
            for shard_id, piece in self.model.pieces.items()
            if piece.state == "running" and piece.owner == owner and (only is None or shard_id in only)
        }
        renewed = shards.heartbeat(self.database, owner, LEASE_S, only=only)
        assert renewed == {shard_id: piece.fence for shard_id, piece in held.items()}
        for piece in held.values():
            piece.lapsed = False

    def keep(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        if not self.model.holds(claim):
            assert shards.keep(self.database, [(claim, outcomes, None)]) == set()
            return
        kept = self.kept.setdefault(claim, {})
        new = [outcome for outcome in outcomes if outcome.content_id not in kept]
        assert shards.keep(self.database, [(claim, new, None)]) == {claim}
        self.model.put(self.model.pieces[claim.shard_id], new)
        kept |= {outcome.content_id: outcome for outcome in new}

    def commit(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        kept = self.kept.get(claim, {})
        end = partial(shards.commit, self.database, claim, _same_where_kept(outcomes, kept), None, kept)
        if self.model.has_ended_it(claim):
            end()
        elif self.model.holds(claim):
            end()
            piece = self.model.pieces[claim.shard_id]
            self.model.put(piece, [outcome for outcome in outcomes if outcome.content_id not in kept])
            self.model.end(piece)
        else:
            with pytest.raises(LeaseLost):
                end()

    def release(self, claim: Claim, finished: Sequence[Outcome]) -> None:
        kept = self.kept.get(claim, {})
        finished = [*kept.values(), *(outcome for outcome in finished if outcome.content_id not in kept)]
        shards.release(self.database, claim, finished, None, kept)
        if not self.model.holds(claim):
            return
        piece = self.model.pieces[claim.shard_id]
        rest = {content_id for content_id, _ in claim.texts} - {outcome.content_id for outcome in finished}
        self.model.put(piece, finished[len(kept) :])
        if not rest:
            self.model.end(piece)
            return
        settled = tuple(content_id for content_id in piece.contents if content_id not in rest)
        piece.contents = tuple(content_id for content_id in piece.contents if content_id in rest)
        piece.give_back(attempt=-1)
        for part in self.model.learn(self.look(), settled, job_id=piece.job, redo=piece.redo, state="done"):
            assert self.model.pieces[part].contents == settled
            self.model.end(self.model.pieces[part])

    def fail(self, claim: Claim) -> None:
        """The attempt ends with an error. Whatever waits then waits until time passes here."""
        maintenance.failed_attempt(self.database, claim, "the driver fell over")
        if not self.model.holds(claim):
            return
        piece = self.model.pieces[claim.shard_id]
        self.model.fail(piece)
        if piece.waits:
            [until] = [row.not_before for row in self.look().shards.values() if row.id == claim.shard_id]
            assert until > 0.0
            set_shard(self.database, claim.shard_id, not_before=db_now() + LONG_S)

    # Deaths

    def oversleep(self, owner: str) -> None:
        """The leases of a process lapse. Nobody takes note of that yet."""
        for shard_id, piece in self.model.pieces.items():
            if piece.owner == owner and piece.state == "running":
                lapse(self.database, shard_id)
                piece.lapsed = True

    def lapse(self, owner: str) -> None:
        self.oversleep(owner)
        self.reclaim_lapsed()

    def reclaim_lapsed(self) -> None:
        lapsed = [piece for _, piece in sorted(self.model.pieces.items()) if piece.lapsed]
        assert maintenance.reclaim(self.database) == len(lapsed)
        self._let_go(lapsed, self.model.lapse, {id(piece): piece.suspect for piece in lapsed})
        for shard_id, piece in self.model.pieces.items():
            if piece in lapsed and piece.waits:
                set_shard(self.database, shard_id, not_before=db_now() + LONG_S)

    def kill(self, owner: str) -> None:
        held = self._held_by(owner)
        assert maintenance.reclaim(self.database, owner) == len(held)
        self._let_go(held, self.model.die, {id(piece): 1 for piece in held})

    def _let_go(self, held: list[Piece], step: Callable[[Piece], bool], suspect: dict[int, int]) -> None:
        """Take up what became of shards that were reclaimed.

        They are done as far as they have outcomes. The rest may be split to one text each, as suspect as is said.
        """
        done: list[tuple[int, bool, tuple[int, ...]]] = []
        split: list[Piece] = []
        for piece in held:
            rest = self.model.lacking(piece)
            settled = tuple(content_id for content_id in piece.contents if content_id not in rest)
            if not rest:
                piece.fence += 1
                piece.owner = None
                self.model.end(piece)
                continue
            if settled:
                done.append((piece.job, piece.redo, settled))
                piece.contents = tuple(content_id for content_id in piece.contents if content_id in rest)
            if step(piece):
                split.append(piece)
        picture = self.look()
        contents = [content_id for _, _, settled in done for content_id in settled]
        parts = self.model.learn(picture, contents + [content_id for piece in split for content_id in piece.contents])
        ended = [self.model.pieces[part] for part in parts if picture.shards[part].state == "done"]
        assert sorted((one.job, one.redo, one.contents) for one in ended) == sorted(done)
        for one in ended:
            self.model.end(one)
        left = sorted(
            (piece.job, piece.redo, suspect[id(piece)], piece.lapses, content_id)
            for piece in split
            for content_id in piece.contents
        )
        found = [self.model.pieces[part] for part in parts if picture.shards[part].state == "planned"]
        assert sorted((one.job, one.redo, one.suspect, one.lapses, *one.contents) for one in found) == left

    def release_owner(self, owner: str) -> None:
        held = self._held_by(owner)
        assert maintenance.release_owner(self.database, owner) == len(held)
        for piece in held:
            piece.give_back(attempt=-1)

    def _held_by(self, owner: str) -> list[Piece]:
        pieces = sorted(self.model.pieces.items())
        return [piece for _, piece in pieces if piece.state == "running" and piece.owner == owner]

    # Jobs

    def pause(self, job_id: int) -> None:
        assert jobs.pause(self.database, job_id) != self.is_over(job_id)
        if not self.is_over(job_id):
            self.model.jobs[job_id].paused = True
            self.model.take_away(job_id)

    def resume(self, job_id: int) -> None:
        assert jobs.resume(self.database, job_id) != self.is_over(job_id)
        self.model.jobs[job_id].paused = False

    def prioritize(self, job_id: int, priority: int) -> None:
        assert jobs.prioritize(self.database, job_id, priority) != self.is_over(job_id)
        if not self.is_over(job_id):
            self.model.jobs[job_id].priority = priority

    def cancel(self, job_id: int) -> None:
        assert jobs.cancel(self.database, job_id) == self.model.stop(job_id, "cancelled")

    def halt(self, job_id: int) -> None:
        assert jobs.halt(self.database, job_id, "enough") == self.model.stop(job_id, "stopped")

    def retry(self, job_id: int, only: str | None) -> None:
        job = self.model.jobs[job_id]
        if job.state == "cancelled":
            with pytest.raises(JobStopped):
                jobs.retry(self.database, job_id, only)
            return
        picture = self.look()
        again = {
            content_id
            for content_id in picture.retriable(job_id)
            if (fate := self.model.outcomes.get((job.spec, content_id))) is not None
            and fate[0] == "failed"
            and only in {None, fate[2]}
        } - self.model.open_contents(job_id)
        assert jobs.retry(self.database, job_id, only) == len(again)
        self.model.learn(self.look(), again, job_id=job_id, redo=True, suspect=0, state="planned")
        job.n_retried += len(again)
        if again:
            job.state = "running" if job.is_read else "ingesting"

    def finish(self) -> None:
        assert sorted(jobs.finish(self.database)) == sorted(self.model.finish())

    def let_everything_finish(self) -> None:
        """Read and work off whatever was not cancelled or stopped, and look whether all of it is there."""
        for reading in list(self.being_read):
            while self.read_on(reading):
                pass
        self.compare()
        let_everything_finish(self.database)


def _same_where_kept(outcomes: Sequence[Outcome], kept: Mapping[int, Outcome]) -> list[Outcome]:
    return [kept.get(outcome.content_id, outcome) for outcome in outcomes]


def _same(one: JobRequest, other: JobRequest) -> bool:
    return (one.corpus, one.source, one.steps) == (other.corpus, other.source, other.steps)
