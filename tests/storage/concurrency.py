"""Processes that make moves at random on one store, each with no regard for the others."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Shard, db_now
from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import JobStopped, LeaseLost
from docmill.storage.ingest import ingest
from docmill.storage.leases import dispatch, maintenance, shards
from docmill.storage.leases.shards import Claim
from docmill.storage.steps import jobs
from tests.storage import laws
from tests.storage.builders import COPY, TRANSLATE, chunks, claim_shard, dispatched, queued, request
from tests.storage.laws import Picture

TEXTS = [f"text {n}" for n in range(12)]
FATES = (Status.DONE, Status.DONE, Status.DONE, Reason.DOCUMENT, Reason.TRANSIENT, Status.SKIPPED)


class Rival:
    """A process with claims of its own. What it did not hear of it finds out."""

    def __init__(self, database: Database, seed: str) -> None:
        self.database = database
        self.seed = seed
        self.chance = random.Random(seed)
        self.claims: list[Claim] = []
        self.n_outputs = 0
        self.seen: Picture | None = None

    def make_moves(self, n: int) -> None:
        moves: list[Callable[[], object]] = [
            self.read,
            *[self.claim] * 4,
            *[self.commit] * 4,
            self.release,
            self.fail,
            self.heartbeat,
            self.let_time_pass,
            self.die,
            self.go,
            self.keep_up,
            self.change_a_job,
            self.look,
        ]
        for _ in range(n):
            self.chance.choice(moves)()

    def read(self) -> None:
        """Read a source to its end, or a piece of it."""
        asked = request(
            self.chance.choice(["left", "right"]),
            corpus=self.chance.choice(["books", "poems"]),
            spec=self.chance.choice([COPY, COPY, TRANSLATE]),
            priority=self.chance.randint(0, 1),
            max_failures=self.chance.choice([None, None, 60.0]),
        )
        texts = [
            (self.chance.choice("abcdefgh"), self.chance.choice(TEXTS)) for _ in range(self.chance.randint(1, 12))
        ]
        is_cut_off = self.chance.random() < 0.3
        with suppress(JobStopped):
            job = jobs.open_job(self.database, asked)
            for part in chunks(texts, 3)[: 1 if is_cut_off else None]:
                ingest.add(self.database, job, part)
            if not is_cut_off:
                ingest.end(self.database, job)

    def claim(self) -> None:
        waiting = queued(self.database) or dispatched(self.database)
        claim = claim_shard(self.database, self.chance.choice(waiting), self.seed) if waiting else None
        self.claims += [claim] if claim else []

    def some_claim(self) -> Claim | None:
        """One of the claims, lost perhaps. Now and then it is kept, as if it were not over."""
        if not self.claims:
            return None
        claim = self.chance.choice(self.claims)
        if self.chance.random() < 0.8:
            self.claims.remove(claim)
        return claim

    def outcomes(self, claim: Claim) -> list[Outcome]:
        return [self.outcome(content_id) for content_id, _ in claim.texts]

    def outcome(self, content_id: int) -> Outcome:
        fate = self.chance.choice(FATES)
        if isinstance(fate, Reason):
            return Outcome(content_id, Status.FAILED, reason="it would not", reason_class=fate)
        self.n_outputs += 1
        return Outcome(content_id, fate, text=f"{self.seed}: {self.n_outputs}", tokens_in=2, tokens_out=1)

    def commit(self) -> None:
        if (claim := self.some_claim()) is not None:
            with suppress(LeaseLost):
                shards.commit(self.database, claim, self.outcomes(claim), None)

    def release(self) -> None:
        if (claim := self.some_claim()) is not None:
            shards.release(self.database, claim, self.outcomes(claim)[: self.chance.randint(0, 2)])

    def fail(self) -> None:
        if (claim := self.some_claim()) is not None:
            maintenance.failed_attempt(self.database, claim, "the driver fell over")

    def heartbeat(self) -> None:
        shards.heartbeat(self.database, self.seed)

    def let_time_pass(self) -> None:
        """So much that leases lapse and nothing waits after an error any more."""
        mine = [claim.shard_id for claim in self.claims]

        def at_last(transaction: Transaction) -> None:
            held = update(Shard).where(Shard.id.in_(mine), Shard.state == "running")
            transaction.execute(held.values(lease_until=db_now() - 1.0))
            transaction.execute(update(Shard).where(Shard.state == "planned").values(not_before=0.0))

        self.database.write(at_last)
        maintenance.reclaim(self.database)

    def die(self) -> None:
        maintenance.reclaim(self.database, self.seed)

    def go(self) -> None:
        maintenance.release_owner(self.database, self.seed)

    def keep_up(self) -> None:
        jobs.finish(self.database)
        for lane in dispatch.lanes(self.database):
            maintenance.lost_hints(self.database, lane.name, queue_is_empty=True, grace_s=0.0)

    def change_a_job(self) -> None:
        known = sorted(self.look().jobs)
        if not known:
            return
        changes: list[Callable[[Database, int], object]] = [
            jobs.pause,
            jobs.resume,
            jobs.resume,
            jobs.retry,
            jobs.retry,
            jobs.cancel,
        ]
        with suppress(JobStopped):
            self.chance.choice(changes)(self.database, self.chance.choice(known))

    def look(self) -> Picture:
        """The store at any moment: the laws hold, and nothing that was settled is otherwise."""
        picture = laws.look(self.database)
        laws.assert_lawful(self.database, picture)
        if self.seen is not None:
            laws.assert_follows(self.seen, picture)
        self.seen = picture
        return picture
