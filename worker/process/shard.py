"""Process a shard in a device process: look up, claim, compute, commit. Celery only calls `Process.run_shard`."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from docmill.storage import fault_points
from docmill.storage.core.database import Database
from docmill.storage.errors import DatabaseBusy, DatabaseUnreachable, LeaseLost, StorageError
from docmill.storage.leases import dispatch, maintenance, shards
from docmill.storage.leases.shards import Claim, ShardHead
from docmill.tasks import tracing
from docmill.tasks.engine.engine import Engine, Ticket
from docmill.tasks.errors import CannotServe, DeviceUnusable, EngineStopped, ServerAway, is_server_away
from docmill.tasks.tracing import messaging
from docmill.worker import logs
from docmill.worker.errors import BrokerUnreachable
from docmill.worker.process.counts import COMPUTING, CUTTING, READING, WRITING, DeviceCounter, TimeUse, of_device
from docmill.worker.process.device_start import CUT
from docmill.worker.queue.broker import Broker
from docmill.worker.queue.dispatcher import Refill
from docmill.worker.queue.messages import queue

log = logging.getLogger("docmill.shard")

LOOK_S = 0.5
CLAIM_LOOK_S = 0.01
KEEP_EVERY_S = 0.05  # at most, finished outcomes are stored before their shard ends
KEEP_PAUSE = 25  # times the seconds that this takes
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 5.0  # between two looks at a database that is away
AWAY_S = dispatch.REFUSAL_S  # before a server that did not answer is asked again
WRITE_AGAIN_S = 2.0  # between two tries to write what was computed


class Process:
    """The state that the threads of one device process share.

    Leases are renewed over `heartbeat_database`, whose connection no other thread holds.
    """

    def __init__(
        self,
        *,
        owner: str,
        database: Database,
        broker: Broker,
        engine: Engine,
        lease_s: float,
        heartbeat_database: Database | None = None,
        say: Callable[..., None] = lambda *_, **__: None,
        only_job: int | None = None,
    ) -> None:
        self.owner = owner
        self.database = database
        self.heartbeat_database = heartbeat_database or database
        self.broker = broker
        self.engine = engine
        self.lease_s = lease_s
        self._say = say
        self.counter = DeviceCounter()
        self.time_use = TimeUse()
        self.gate = Gate()
        self.breaker = Breaker()
        self._refill = Refill(database, broker, only_job)
        self.draining = threading.Event()
        self.in_flight = ShardsInFlight()
        self._refused: set[int] = set()
        self._away_until: dict[int, float] = {}  # specs whose server is away, by the monotonic clock
        self._has_served = False
        self._device_problem: str | None = None  # why everything was refused until now

    def serve(self, only_job: int) -> None:
        """Offer shards of this job alone from now on."""
        self._refill = Refill(self.database, self.broker, only_job)

    def run_shard(self, shard_id: int, sent: str | None = None) -> None:
        """Process the shard of a hint, if the hint is still valid. Otherwise leave the shard to other workers.

        Wait while the database is away, or refuses writes: the queue no longer has the hint. `sent` is the span
        in which the hint was sent.
        """
        fault_points.reach("taken")
        wait_s = FIRST_WAIT_S
        while True:
            try:
                # While the store refuses the results of this process, more work would only wait beside them.
                if self.breaker.trouble is None or not self.in_flight:
                    self._process_if_served(shard_id, sent)
                    return
            except CircuitOpen as refusal:
                wait_s = refusal.wait_s
            except StorageError as error:
                log.warning("store_away shard=%d error=%s", shard_id, error)
            if self.draining.wait(wait_s):
                with suppress(StorageError):  # else maintenance sends the hint again
                    dispatch.put_back(self.database, [shard_id])
                return
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)

    def _process_if_served(self, shard_id: int, sent: str | None) -> None:
        """Process the shard if this process can serve it. Put it back if not."""
        head = shards.look(self.database, shard_id)
        if head is None:
            return
        try:
            serves = not head.at_limit and not self.draining.is_set() and self._can_serve(head)
        except EngineStopped:  # while the model was loaded
            dispatch.put_back(self.database, [shard_id])
            self._end_if_engine_died()
            return
        if not serves:
            dispatch.put_back(self.database, [shard_id])
            if head.at_limit:  # others may take its place in the queue
                self._top_up(head.lane)
            return
        with self.gate.passing(alone=head.alone):
            self._claim_and_compute(head, sent)
        if not self.draining.is_set():
            self._top_up(head.lane)

    def _claim_and_compute(self, head: ShardHead, sent: str | None) -> None:
        """Claim a shard and compute it, in a span of its job's trace that links to the hint."""
        lane = queue(head.lane)
        about = messaging("process", lane) | {"docmill.shard": head.shard_id}
        with tracing.span(f"process {lane}", about, kind="consumer", parent=head.traceparent, links=[sent]) as span:
            with self.in_flight.claiming():
                if self.draining.is_set():
                    dispatch.put_back(self.database, [head.shard_id])
                    return
                with tracing.span("claim"), self.breaker.attempt(), self.time_use.spent(READING):
                    claim = shards.claim(self.database, head, self.owner, self.lease_s)
                if claim is None:
                    dispatch.put_back(self.database, [head.shard_id])  # unless it runs
                    return
                shard = InFlight(head, claim)
                self.in_flight.enter(shard)
            span.set(
                {"docmill.job": claim.job_id, "docmill.attempt": claim.attempt, "docmill.texts": len(claim.texts)}
            )
            with logs.working_on(job=claim.job_id, shard=claim.shard_id, request_id=head.request_id):
                self._compute(shard, span.traceparent)

    def _can_serve(self, head: ShardHead) -> bool:
        """Return True if the model opens here. Call it before the claim, so that no attempt is spent."""
        if time.monotonic() < self._away_until.get(head.spec_id, 0.0):
            return False
        try:
            self.engine.open(head.spec)
        except CannotServe as error:
            self._refuse(head, error)
            if isinstance(error, DeviceUnusable) and not self._has_served:
                self._device_problem = str(error)
            return False
        self._has_served, self._device_problem = True, None
        if head.spec_id in self._refused:
            dispatch.accept(self.database, self.owner, head.spec_id)
            self._refused.discard(head.spec_id)
        return True

    def _refuse(self, head: ShardHead, error: CannotServe | ServerAway) -> None:
        self._say("refused", server_away=is_server_away(error))
        if head.spec_id not in self._refused:
            # `docmill run` ends with this reason.
            log.log(
                logging.ERROR if self._refill.only_job is None else logging.INFO,
                "cannot_serve spec=%d reason=%r",
                head.spec_id,
                str(error),
            )
        dispatch.refuse(self.database, self.owner, head.spec_id, f"cannot serve {head.spec}: {error}")
        self._refused.add(head.spec_id)

    def _compute(self, shard: InFlight, traceparent: str | None) -> None:
        """Compute a claimed shard and commit it, or give it back."""
        head, claim = shard.head, shard.claim
        try:
            # Otherwise another model might replace this one, and loading it again would count as cutting.
            with self.engine.hold(head.spec) as shard.runtime:
                shard.ticket = self._submit(head, claim, traceparent)
            while not self._wait_for_device(shard.ticket) and not shard.lost.is_set():
                pass
            if shard.lost.is_set():
                shard.ticket.drop()
                self._note_lost_lease(claim)
                return
            if shard.ticket.away is not None:
                self._away_until[head.spec_id] = time.monotonic() + AWAY_S
                with suppress(StorageError):
                    self._refuse(head, shard.ticket.away)
            elif not shard.ticket.complete:
                self._end_if_engine_died()
            shard.runtime = self.engine.runtime_since(head.spec, shard.runtime)
            self._settle(shard)
        except LeaseLost:
            self._note_lost_lease(claim)
        except EngineStopped:  # it took no text, so the shard is no suspect
            self._write_until_accepted(lambda: shards.release(self.database, claim), shard)
            self._end_if_engine_died()
        except CannotServe as error:  # its server went away after the check
            with suppress(StorageError):
                self._refuse(head, error)
            self._write_until_accepted(lambda: shards.release(self.database, claim), shard)
        except Exception as error:
            log.exception("shard_failed shard=%d", claim.shard_id)
            reason = f"{type(error).__name__} in the worker; its log says more"
            self._write_until_accepted(lambda: maintenance.failed_attempt(self.database, claim, reason), shard)
        finally:
            self.in_flight.leave(shard)
            if not self.in_flight:
                self._say("idle")

    def _end_if_engine_died(self) -> None:
        """End the process if its engine died.

        The supervisor starts another, and marks the shards in flight as suspects.
        """
        if self.engine.error is not None and not self.draining.is_set():
            log.critical("engine_died error=%r", self.engine.error)
            os._exit(1)

    def _wait_for_device(self, ticket: Ticket) -> bool:
        """Wait a moment for the device. Return True once no further outcome will come."""
        with self.time_use.spent(COMPUTING):
            return ticket.wait(LOOK_S)

    def _note_lost_lease(self, claim: Claim) -> None:
        log.warning("lease_lost shard=%d", claim.shard_id)
        self.counter.add("leases_lost")

    def _submit(self, head: ShardHead, claim: Claim, traceparent: str | None) -> Ticket:
        """Cut the texts. The supervisor limits the time that this takes, as it does for a batch."""
        activity = f"cut {claim.shard_id}"
        self._say("begin", name=activity, kind=CUT, size=sum(len(text) for _, text in claim.texts))
        try:
            with self.time_use.spent(CUTTING):
                return self.engine.submit(head.spec, claim.texts, traceparent)
        finally:
            self._say("end", name=activity)

    def keep_for_ever(self) -> None:
        """Store outcomes of shards in flight as they come, so that a process that dies loses few."""
        cost_s = KEEP_EVERY_S / KEEP_PAUSE
        while True:
            began = time.monotonic()
            if self._keep():  # one slow round, as the first is, says little
                cost_s = min(time.monotonic() - began, 2 * cost_s)
            time.sleep(max(KEEP_EVERY_S, KEEP_PAUSE * cost_s))

    def _keep(self) -> bool:
        """Store the new outcomes of shards that go on. Return False if there are none."""
        fresh = []
        for shard in self.in_flight.held():
            if shard.ticket is None or shard.ticket.complete:
                continue
            finished = shard.ticket.finished()
            outcomes = [outcome for outcome in finished if outcome.content_id not in shard.kept]
            if outcomes:
                runtime = self.engine.runtime_since(shard.head.spec, shard.runtime)
                fresh.append((shard, shard.ticket, outcomes, (shard.claim, finished, runtime, shard.kept)))
        if not fresh:
            return False
        try:
            with self.breaker.attempt():
                stored = shards.keep(self.database, [to_keep for *_, to_keep in fresh])
        except StorageError as error:
            log.warning("keep_waits shards=%d error=%s", len(fresh), error)
            time.sleep(WRITE_AGAIN_S)
            return False
        for shard, ticket, outcomes, _ in fresh:
            if shard.claim in stored:
                shard.kept |= {outcome.content_id for outcome in outcomes}
                self.engine.forget_stored(shard.head.spec, ticket, outcomes)
        return True

    def _settle(self, shard: InFlight) -> None:
        """Commit a finished shard. If a drain interrupted it, commit the finished texts and give the rest back."""
        assert shard.ticket is not None
        claim, outcomes, complete = shard.claim, shard.ticket.finished(), shard.ticket.complete
        end = (self.database, claim, outcomes, shard.runtime, shard.kept)

        def write() -> None:
            if complete:
                shards.commit(*end)
            elif not shards.release(*end):
                raise LeaseLost

        fault_points.reach("computed")
        with tracing.span("commit", {"docmill.outcomes": len(outcomes), "docmill.complete": complete}) as span:
            with self.time_use.spent(WRITING):
                written = self._write_until_accepted(write, shard)
            if not written:
                span.fail("LeaseLost")
                self._note_lost_lease(claim)
                return
        self.engine.forget_stored(shard.head.spec, shard.ticket, outcomes)
        self.counter.committed(shard.head.spec.kind, outcomes)
        self.counter.add("shards", shard.head.spec.kind, "done" if complete else "released")
        fault_points.reach("committed")
        log.info("shard_%s shard=%d outcomes=%d", "done" if complete else "released", claim.shard_id, len(outcomes))

    def _write_until_accepted(self, write: Callable[[], object], shard: InFlight) -> bool:
        """Write the end of a shard, and try again until the store accepts it. Return False if the lease is lost."""
        while not shard.lost.is_set():
            try:
                with self.breaker.attempt():
                    write()
                return True
            except LeaseLost:
                return False
            except CircuitOpen as refusal:
                shard.lost.wait(refusal.wait_s)
            except StorageError as error:
                log.warning("commit_waits shard=%d error=%s", shard.claim.shard_id, error)
                self.counter.add("commit_retries")
                if self.breaker.trouble is None:
                    shard.lost.wait(WRITE_AGAIN_S)
        return False

    def _top_up(self, lane: str) -> None:
        try:
            self._refill.after_shard(lane)
        except (BrokerUnreachable, StorageError) as error:
            log.warning("top_up_failed error=%s", error)

    def heartbeat(self, *, consumes: bool, time_use: Mapping[str, float] | None = None) -> None:
        """Renew the leases of this process, and stop computing shards that it lost."""
        in_flight = self.in_flight.held()
        trouble = self.breaker.trouble
        held = shards.heartbeat(
            self.heartbeat_database,
            self.owner,
            self.lease_s,
            only={shard.claim.shard_id for shard in in_flight},
            consumes=consumes,
            trouble=trouble,
            computed=self.computed(),
            device_problem=self._device_problem,
            time_use=time_use,
        )
        for shard in in_flight:
            if held.get(shard.claim.shard_id) != shard.claim.fence:
                shard.lost.set()

    def computed(self) -> dict[int, float]:
        """Return the number of texts that are computed and not yet committed, by job.

        A text counts in part while some of its windows are left. Every job with shards here has an entry, at least 0.
        """
        texts: dict[int, float] = {}
        for shard in self.in_flight.held():
            computed = 0.0 if shard.ticket is None else shard.ticket.computed
            texts[shard.claim.job_id] = texts.get(shard.claim.job_id, 0.0) + computed
        return texts

    def lately(self) -> dict[str, float]:
        """Return the use of the last minute, in seconds (`worker.process.counts`)."""
        return self.time_use.lately(self.in_flight.worked_s(), self.engine.counters.busy_s)

    def counts(self) -> dict[str, float]:
        """Return all counters of this process, by the names of `worker.process.counts.COUNTERS`."""
        return self.counter.counts() | of_device(self.engine.counters, self.in_flight.worked_s())

    def drain(self) -> None:
        """Take no more shards, finish the batch on the device, commit the finished texts and give the rest back."""
        self.draining.set()
        log.info("draining shards=%d", len(self.in_flight.held()))
        self.engine.drain()

    def give_back(self) -> None:
        """Commit the finished texts and give all shards back at once, without waiting for the device."""
        self.draining.set()
        while self.in_flight.n_claiming:  # what is claimed now is given back, too
            time.sleep(CLAIM_LOOK_S)
        for shard in self.in_flight.held():
            finished = shard.ticket.finished() if shard.ticket is not None and shard.runtime else []
            released = shards.release(self.database, shard.claim, finished, shard.runtime, shard.kept)
            if released and shard.ticket is not None:
                self.engine.forget_stored(shard.head.spec, shard.ticket, finished)


@dataclass
class InFlight:
    """A shard that this process holds, from its claim to its commit."""

    head: ShardHead
    claim: Claim
    ticket: Ticket | None = None
    runtime: Mapping[str, Any] = field(default_factory=dict)
    lost: threading.Event = field(default_factory=threading.Event)
    kept: frozenset[int] = frozenset()  # contents whose outcomes are stored before the shard ends


class ShardsInFlight:
    """The claims that the threads of one device process work on.

    A process that lost a shard may claim it again before the thread of its first claim has noticed. The end of the
    first leaves the second alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[int, InFlight] = {}  # by identity
        self.n_claiming = 0
        self._worked_s = 0.0
        self._working_since = 0.0

    def __bool__(self) -> bool:
        return bool(self._claims)

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """Count a claim that is being made in this block, until it is held."""
        with self._lock:
            self.n_claiming += 1
        try:
            yield
        finally:
            with self._lock:
                self.n_claiming -= 1

    def enter(self, shard: InFlight) -> None:
        """Hold a claim from now on."""
        with self._lock:
            if not self._claims:
                self._working_since = time.monotonic()
            self._claims[id(shard)] = shard

    def leave(self, shard: InFlight) -> None:
        """Hold a claim no longer."""
        with self._lock:
            del self._claims[id(shard)]
            if not self._claims:
                self._worked_s += time.monotonic() - self._working_since

    def held(self) -> list[InFlight]:
        """Return the claims that are held now."""
        with self._lock:
            return list(self._claims.values())

    def worked_s(self) -> float:
        """Return the total seconds, until now, during which at least one claim was held."""
        with self._lock:
            return self._worked_s + (time.monotonic() - self._working_since if self._claims else 0.0)


FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 30.0
OTHERS_TRY_S = 0.5  # between two looks at another thread's try


class CircuitOpen(StorageError):
    """The store refused a write lately; the next one may be tried in `wait_s` seconds."""

    def __init__(self, wait_s: float, trouble: str) -> None:
        super().__init__(trouble)
        self.wait_s = wait_s


class Breaker:
    """A circuit breaker that threads share: after a refusal one write at a time is tried, ever more rarely.

    `trouble` is the store's last refusal; None while it accepts writes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._retry_at = 0.0
        self._is_tried = False
        self.trouble: str | None = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Guard one write. Raises CircuitOpen if no write may be tried now, and the errors of the write."""
        self._admit()
        try:
            yield
        except LeaseLost:  # so the store works
            self._close()
            raise
        except (DatabaseBusy, DatabaseUnreachable):
            self._end_attempt()
            raise
        except StorageError as error:
            self._open(str(error))
            raise
        except BaseException:
            self._end_attempt()
            raise
        else:
            self._close()

    def _admit(self) -> None:
        with self._lock:
            if self.trouble is None:
                return
            wait_s = self._retry_at - self._clock()
            if wait_s > 0 or self._is_tried:
                raise CircuitOpen(max(wait_s, OTHERS_TRY_S), self.trouble)
            self._is_tried = True

    def _close(self) -> None:
        with self._lock:
            self.trouble, self._failures, self._is_tried = None, 0, False

    def _open(self, trouble: str) -> None:
        with self._lock:
            # Writes that were under way when the first one failed say nothing new.
            if self.trouble is None or self._is_tried:
                self._retry_at = self._clock() + min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0**self._failures)
                self._failures += 1
            self.trouble, self._is_tried = trouble, False

    def _end_attempt(self) -> None:
        with self._lock:
            self._is_tried = False


class Gate:
    """Shards pass together, a suspect passes alone. While a suspect waits, no other shard enters."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting_alone = 0
        self._alone = False

    @contextmanager
    def passing(self, *, alone: bool) -> Iterator[None]:
        """Enter before the block, together with other shards or `alone`, and leave after it."""
        with self._changed:
            if alone:
                self._waiting_alone += 1
                self._changed.wait_for(lambda: self._inside == 0)
                self._waiting_alone -= 1
                self._alone = True
            else:
                self._changed.wait_for(lambda: not self._alone and self._waiting_alone == 0)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone = False
                self._changed.notify_all()
