"""Carry the batches of `docmill serve` from status to status: read a batch's lines into jobs, and write its answers.

Every server has a clerk, and a lease in the store says which clerk has a batch. If a clerk is killed, its lease
lapses, and another clerk repeats the step: jobs have idempotency keys, and files are shown with the next status.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, Self

from docmill.features.batch_server import keys, stored_batches, writer
from docmill.features.batch_server.batches import BatchPlan, JobAnswers, answer_lines
from docmill.features.batch_server.bodies import name_body_fields
from docmill.features.batch_server.file import MOST_CALLS, BatchFile, BodySettings, Call, list_calls, survey
from docmill.features.batch_server.stored_batches import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    VALIDATING,
    ApiBatch,
)
from docmill.features.batch_server.stored_files import OUTPUT, FileWriter, read_blocks
from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from docmill.storage.errors import KeyReused, LeaseLost, NotFound, StorageError
from docmill.storage.leases.policy import MAX_ATTEMPTS
from docmill.storage.readers.errors import SourceError
from docmill.storage.readers.files import SourceFile
from docmill.storage.readers.streams import Pieces
from docmill.storage.steps import jobs
from docmill.storage.steps.budgets import Account
from docmill.storage.writers.formats import to_json
from docmill.tasks.errors import BadOption, HubUnreachable, ModelUnsuitable, ServerUnreachable, TaskError
from docmill.worker.concurrency import HeldLease, hold_lease
from docmill.worker.errors import WorkerError
from docmill.worker.jobs import Listener
from docmill.worker.jobs.errors import UNREACHABLE, exit_code
from docmill.worker.jobs.submission import submit
from docmill.worker.prices import read_prices
from docmill.worker.settings import Settings
from docmill.worker.submit.request import spec_of

log = logging.getLogger("docmill.serve")

POLL_S = 0.5
AT_ONCE = 4  # batches that a clerk reads or writes, so that a long one does not keep short ones waiting
AGAIN_S = 5.0  # until a batch is tried again after an error, or the clerk looks again after a bug
REMOVE_EVERY_S = 60.0
_INVALID = "invalid_batch"
_UNANSWERED = {
    EXPIRED: ("batch_expired", "The batch expired before this request was computed; send it again."),
    CANCELLED: ("batch_cancelled", "The batch was cancelled before this request was computed."),
    COMPLETED: ("batch_stopped", "The operator of the server ended or removed this request's job; send it again."),
}
_UNPRICED = (
    'the model "{}" has no price, and the batch or its key has a limit of costs; ask the operator of this server for '
    "a price, or name another model"
)
_CHANGED = (
    "the operator changed the server's models or settings, or removed a job of the batch, while the batch was "
    "validated; create the batch again"
)
_GIVEN_UP = f"the server failed {MAX_ATTEMPTS} times to write the answers; its operator finds the reason in the log"
_READ_DIFFERENTLY = (
    "the server was upgraded after it validated the batch, and reads its requests differently now; create the batch "
    "again"
)


@dataclass(frozen=True)
class Limits:
    """The most bytes of an upload, the most lines of a batch, and the time for which files are kept.

    With `samples_anew`, each batch has its own seed for requests without a seed.
    """

    file_bytes: int
    batch_lines: int
    keep_s: float
    samples_anew: bool = False


class Clerk:
    """Carries batches on, on threads, for the length of a block. `models` has the served models by their names.

    Setting `wake` makes the clerk look for batches now. Raises WorkerError for prices that cannot be read.
    """

    def __init__(self, settings: Settings, database: Database, models: Mapping[str, str], limits: Limits) -> None:
        self.settings = settings
        self.database = database
        self.models = models
        self.limits = limits
        self.prices = read_prices(settings)
        self.lease_s = min(stored_batches.LEASE_S, settings.lease_s)
        self.owner = keys.new_id("clerk_")
        self.wake = threading.Event()
        self._stop = threading.Event()
        self._in_hand: set[str] = set()
        self._again_at: dict[str, float] = {}  # of batches that failed for now
        self._n_failed = Counter[str]()  # attempts to end them that failed by an error that does not pass

    def __enter__(self) -> Self:
        # A daemon: a clerk that ends in the middle of a batch leaves the batch as a killed clerk does.
        threading.Thread(target=self._work, name="clerk", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.wake.set()

    def _work(self) -> None:
        remove_at = 0.0
        while not self._stop.is_set():
            try:
                for batch_id in stored_batches.find_due(self.database):
                    rests = time.monotonic() < self._again_at.get(batch_id, 0.0)
                    if len(self._in_hand) < AT_ONCE and batch_id not in self._in_hand and not rests:
                        self._begin(batch_id)
                if time.monotonic() >= remove_at:
                    stored_batches.remove_old(self.database)
                    remove_at = time.monotonic() + REMOVE_EVERY_S
            except (StorageError, WorkerError) as error:
                log.warning("not_looked error=%s", error)
            except Exception:
                log.exception("look_failed")  # a bug, or no thread can start; HTTP is still served
                self._stop.wait(AGAIN_S)
            self.wake.wait(POLL_S)
            self.wake.clear()

    def _begin(self, batch_id: str) -> None:
        self._in_hand.add(batch_id)
        try:
            threading.Thread(target=self._try, args=(batch_id,), name="clerk", daemon=True).start()
        except BaseException:
            self._in_hand.discard(batch_id)
            raise

    def _try(self, batch_id: str) -> None:
        try:
            self.carry_on(batch_id)
            self._again_at.pop(batch_id, None)
            self._n_failed.pop(batch_id, None)
            self.wake.set()
        except LeaseLost as error:
            log.info("batch_left batch=%s reason=%r", batch_id, str(error))
        except Exception:
            log.exception("batch_failed batch=%s", batch_id)  # it is tried again
            self._again_at[batch_id] = time.monotonic() + AGAIN_S
        finally:
            self._in_hand.discard(batch_id)

    def carry_on(self, batch_id: str) -> None:
        """Give a batch its next status, unless another clerk has it. Raises LeaseLost."""
        batch = stored_batches.hold(self.database, batch_id, self.owner, self.lease_s)
        if batch is None:
            return
        try:
            renew = partial(stored_batches.renew, self.database, batch, self.owner, self.lease_s)
            with hold_lease(batch.id, renew, self.lease_s, stop=self._stop) as held:
                self._next(batch, held)
        finally:
            stored_batches.give_back(self.database, batch.id, self.owner)

    def _next(self, batch: ApiBatch, held: HeldLease) -> None:
        try:
            if batch.status in {FINALIZING, CANCELLING}:
                cancelled = batch.status == CANCELLING
                self._finalize(batch, held, CANCELLED if cancelled else batch.ends_as)
            elif batch.status == IN_PROGRESS and stored_batches.is_computed(self.database, batch):
                self._advance(batch, FINALIZING, ends_as=COMPLETED)
            elif batch.is_expired:
                self._advance(batch, FINALIZING, ends_as=EXPIRED)
            elif batch.status == VALIDATING:
                self._validate(batch, held)
            # Otherwise another clerk has validated it since this one looked.
        except (keys.Refused, NotFound) as error:
            self._fail(batch, held, _INVALID, str(error))
        except LeaseLost:
            raise
        except Exception as error:
            # A batch that is validated is tried again until it expires.
            if batch.status not in {FINALIZING, CANCELLING} or exit_code(error) == UNREACHABLE:
                raise
            self._n_failed[batch.id] += 1
            if self._n_failed[batch.id] < MAX_ATTEMPTS:
                raise
            log.exception("batch_given_up batch=%s", batch.id)
            self._fail(batch, held, "server_error", _GIVEN_UP)

    def _fail(self, batch: ApiBatch, held: HeldLease, code: str, reason: str) -> None:
        held.confirm()  # another clerk may have the batch, with other models
        self._cancel_jobs(batch)
        self._advance(batch, FAILED, errors=[{"code": code, "line": None, "message": reason, "param": None}])

    def _advance(self, batch: ApiBatch, status: str, *files: FileWriter, **values: Any) -> None:
        stored_batches.advance(self.database, batch, self.owner, status, files, **values)
        log.info("batch_%s batch=%s key=%r", status, batch.id, batch.key)

    def _validate(self, batch: ApiBatch, held: HeldLease) -> None:
        """Make the jobs of a batch. A line that cannot be carried out becomes an error; the other lines go on."""
        seed = int(batch.id[-7:], 16) if self.limits.samples_anew else None
        read_with = {"dtype": self.settings.dtype, "models": sorted(self.models), "seed": seed}
        file = self._file(batch, held, read_with)
        try:
            calls, n_requests, n_refused = survey(file)
        except WorkerError as error:
            raise keys.Refused(str(error), _INVALID) from error
        except SourceError as error:
            reason = f"{file.content.place} is not text; upload lines of JSON in UTF-8, and not compressed"
            raise keys.Refused(reason, _INVALID) from error
        limited = batch.max_cost is not None or keys.is_limited(self.database, batch.key)
        specs, unfit = self._specs(calls, limited=limited)
        plan = BatchPlan(file, tuple(calls), specs, unfit)
        own = batch.id if batch.max_cost is not None else None
        sharer, prices = keys.budget_of(batch.key), self.prices.by_model()
        account = Account(sharer, batch.weight, own, batch.max_cost, prices)
        planned: list[dict[str, Any]] = []
        for number, call in enumerate(plan.calls, 1):
            held.check()
            if call in unfit:
                planned.append({"unfit": unfit[call]})
                continue
            request = plan.request(call).model_copy(
                update={"idempotency_key": stored_batches.key_of_job(batch.id, number)}
            )
            opened = plan.source(call).opened
            try:
                job = submit(self.settings, self.database, request, Listener(), opened, account)
                planned.append({"job": job.id})
            except TaskError as error:
                planned.append({"unfit": _reason(call, self.models[call.model or ""], error)})
            except KeyReused as error:
                raise keys.Refused(_CHANGED, _INVALID) from error
        self._advance(
            batch,
            IN_PROGRESS,
            plan={**read_with, "calls": planned},
            n_requests=n_requests + n_refused,
            n_failed=n_refused,
        )

    def _specs(
        self, calls: Mapping[Call, str], *, limited: bool
    ) -> tuple[dict[Call, tuple[str | None, Spec]], dict[Call, str]]:
        """Return the models and specs of calls, and the reasons why the other calls make no job.

        If costs are `limited`, a served model needs a price: without a price it would cost nothing.
        """
        specs: dict[Call, tuple[str | None, Spec]] = {}
        unfit: dict[Call, str] = {}
        for call in calls:
            model = self.models[call.model or ""]
            if limited and self.prices.lacks(model):
                unfit[call] = _UNPRICED.format(call.model)
                continue
            try:
                specs[call] = model, spec_of(self.settings, call.task, model, None, call.options)
            except TaskError as error:
                unfit[call] = _reason(call, model, error)
        return specs, unfit

    def _file(self, batch: ApiBatch, held: HeldLease, read_with: Mapping[str, Any]) -> BatchFile:
        stored = stored_batches.find_input(self.database, batch)
        models, seed = tuple(read_with["models"]), read_with.get("seed")
        body_settings = BodySettings(read_with["dtype"], url=batch.endpoint, models=models, seed=seed)
        content = SourceFile(
            f"batch://{batch.key}/{batch.id}",
            stored.filename,
            stored.n_bytes,
            lambda: BufferedReader(Pieces(held.along(read_blocks(self.database, stored.id)))),
        )
        return BatchFile(content, None, stored.sha256 or "", body_settings)

    def _finalize(self, batch: ApiBatch, held: HeldLease, ends_as: str) -> None:
        """Write the answers of a batch and its errors into two files, and end it."""
        if ends_as != COMPLETED:
            self._cancel_jobs(batch)
        if batch.plan is None:
            self._advance(batch, ends_as)
            return
        keep_s = self.limits.keep_s
        with (
            FileWriter(self.database, batch.key, f"{batch.id}_output.jsonl", OUTPUT, keep_s) as answers,
            FileWriter(self.database, batch.key, f"{batch.id}_errors.jsonl", OUTPUT, keep_s) as errors,
        ):
            counts = {answers: 0, errors: 0}
            for line in held.along(self._answers(batch, held, _UNANSWERED[ends_as])):
                file = errors if writer.is_error(line) else answers
                file.write(to_json(line) + b"\n")
                counts[file] += 1
            written = [file for file in (answers, errors) if counts[file]]
            for file in written:
                file.flush()
            self._advance(
                batch,
                ends_as,
                *written,
                n_completed=counts[answers],
                n_failed=counts[errors],
                output_file_id=answers.id if counts[answers] else None,
                error_file_id=errors.id if counts[errors] else None,
            )

    def _cancel_jobs(self, batch: ApiBatch) -> None:
        for job_id in stored_batches.find_jobs(self.database, batch.id, MOST_CALLS):
            with suppress(NotFound):
                jobs.cancel(self.database, job_id)

    def _answers(self, batch: ApiBatch, held: HeldLease, lacking: tuple[str, str]) -> Iterator[writer.Line]:
        """Yield the line of each request, in the order of the input."""
        file = self._file(batch, held, batch.plan)
        calls, planned = list_calls(file), batch.plan["calls"]
        if len(calls) != len(planned):
            raise keys.Refused(_READ_DIFFERENTLY, _INVALID)
        plan = dict(zip(calls, planned, strict=True))
        unfit = {call: entry["unfit"] for call, entry in plan.items() if "unfit" in entry}
        answers = {
            call: JobAnswers(self.database, entry["job"], lacking) for call, entry in plan.items() if "job" in entry
        }
        for line, _ in answer_lines(file, answers, unfit):
            yield line


def _reason(call: Call, model: str, error: TaskError) -> str:
    """Return the reason for a client why this model cannot compute requests. Only the log has paths of the server.

    Raises the error again if a model's hub or server is away, since the batch can wait for it.
    """
    if isinstance(error, BadOption | ModelUnsuitable):
        path = str(Path(model).expanduser().resolve())
        return name_body_fields(str(error).replace(path, str(call.model)))
    if isinstance(error, HubUnreachable | ServerUnreachable):
        raise error
    log.warning("model_refused model=%r error=%r", call.model, str(error))
    return f'the server cannot use the model "{call.model}"; its operator finds the reason in the log'
