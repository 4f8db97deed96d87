"""Carry out a batch file: a job for each set of parameters, one after the other, and the answers in its files."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson

from docmill.features.batch_server import writer
from docmill.features.batch_server.bodies import name_body_fields
from docmill.features.batch_server.file import BatchFile, BatchRequest, Call, CallSource, find_refusal, survey
from docmill.features.batch_server.writer import Line, find_request, make_answer, make_error, make_unanswered
from docmill.storage.core.database import Database
from docmill.storage.core.specs import Reason, Spec
from docmill.storage.errors import NotFound
from docmill.storage.readers.records import Rejection
from docmill.storage.results.results import failures, results
from docmill.storage.results.status import JobStatus
from docmill.storage.steps.budgets import Account
from docmill.storage.writers import COMPRESSIONS, Target
from docmill.storage.writers.formats import JSONL, Row, to_json
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, CannotServe, ModelError, ModelUnsuitable
from docmill.tasks.kinds.options import parsed
from docmill.worker.cli.printing import listen, say, write_out
from docmill.worker.engines import devices_for
from docmill.worker.errors import JobBlocked, WorkerError
from docmill.worker.formatting import counted
from docmill.worker.jobs.errors import UNREACHABLE, exit_code
from docmill.worker.jobs.outputs import STDOUT
from docmill.worker.jobs.run import run_request
from docmill.worker.jobs.submission import submit
from docmill.worker.prices import limit_cost
from docmill.worker.settings import Settings
from docmill.worker.stores import open_store
from docmill.worker.submit.enqueue import Enqueued
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import spec_of
from docmill.worker.terminal import warn

_IN_MEMORY_BYTES = 16 * 2**20
_DIGITS = 12  # of the file's digest, in names of corpora


def choose_models(models: Sequence[str], names: Collection[str | None]) -> Mapping[str | None, str | None]:
    """Return the model for each name in requests: that of `NAME=MODEL`, else the `MODEL` for all, else the name.

    Raises WorkerError if there are two models for all requests, or for one name.
    """
    named = sorted(filter(None, names))
    pairs = [model for model in models if model.partition("=")[0] in named and "=" in model]
    by_name = dict(pair.split("=", 1) for pair in pairs)
    if len(by_name) < len(pairs):
        twice = next(name for name in by_name if sum(pair.startswith(f"{name}=") for pair in pairs) > 1)
        raise WorkerError(f"--model: {twice} has two models; give one of them")
    others = [model for model in models if model not in pairs]
    if len(others) > 1:
        raise WorkerError(
            f"--model {others[1]}: give one model for all requests, or NAME=MODEL for those that name NAME. The "
            f"file names {', '.join(named) or 'none'}"
        )
    of_all = next(iter(others), None)
    return {name: by_name.get(name or "") or of_all or name for name in names}


@dataclass(frozen=True)
class BatchPlan:
    """The jobs of a batch file: each call's model and spec. ``unfit`` has the reasons why other calls make no job.

    ``calls`` has all calls of the file, in the order of their first lines. ``revision`` is the models' revision.
    """

    file: BatchFile
    calls: tuple[Call, ...]
    jobs: Mapping[Call, tuple[str | None, Spec]]
    unfit: Mapping[Call, str]
    revision: str | None = None

    def request(self, call: Call) -> Request:
        """Return the request of a call's job. Each call of each version of the file has a corpus of its own."""
        number, n = self.calls.index(call) + 1, len(self.calls)
        part = f", {number} of {n}" if n > 1 else ""
        values = {
            "options": call.options,
            "source": self.file.name,
            "task": call.task,
            "model": self.jobs[call][0],
            "revision": self.revision,
            "corpus": f"{self.file.name} (batch {self.file.digest[:_DIGITS]}{part})",
        }
        return parsed(Request, values)

    def source(self, call: Call) -> CallSource:
        """Return the source of a call's job. That of the first job has the refused lines, too."""
        is_first = call == next(iter(self.jobs))
        return CallSource(self.file, call, self.jobs[call][1].model, refused=is_first, unfit=self.unfit)


def plan_batch(settings: Settings, file: BatchFile, given_models: Sequence[str], revision: str | None) -> BatchPlan:
    """Read a batch file and return its jobs. Raises WorkerError, SourceError, ModelError."""
    calls, n_requests, _ = survey(file)
    models = choose_models(given_models, {call.model for call in calls})
    jobs: dict[Call, tuple[str | None, Spec]] = {}
    unfit: dict[Call, str] = {}
    for call, where in calls.items():
        model = models[call.model]
        if model is None and kinds.kind(call.task).model_for(call.options) is None:
            raise WorkerError(f"{where}: the request names no model; name one with --model")
        try:
            jobs[call] = model, spec_of(settings, call.task, model, revision, call.options)
        except (BadOption, ModelUnsuitable) as error:
            unfit[call] = name_body_fields(str(error))
        except ModelError:
            named = "names the model" if model == call.model else "would be computed by the model"
            say(f'{where} {named} "{model}". To name another: --model MODEL, or --model NAME=MODEL')
            raise
    if len(jobs) > 1:
        say(f"{n_requests:,} requests with {len(jobs)} sets of parameters: {len(jobs)} jobs.")
    return BatchPlan(file, tuple(calls), jobs, unfit, revision)


def run_batch(
    settings: Settings, plan: BatchPlan, max_cost: float | None
) -> tuple[dict[Call, JobStatus], dict[Call, str]]:
    """Compute the jobs of a batch file on this machine. `max_cost` limits their sum.

    Return how each job ended, and the reasons why this machine cannot compute others.
    """
    account = _limit_cost(settings, plan, max_cost)
    statuses: dict[Call, JobStatus] = {}
    unserved: dict[Call, str] = {}
    for call, (_, spec) in plan.jobs.items():
        _say_next(plan, call)
        request, opened = plan.request(call), plan.source(call).opened
        devices = devices_for(settings.device, spec.model)
        run = run_request(settings, request, devices, listen(settings), opened=opened, account=account)
        with _noting_refusal(plan, call, unserved), run as (_, status):
            statuses[call] = status
    return statuses, unserved


@contextmanager
def _noting_refusal(plan: BatchPlan, call: Call, unserved: dict[Call, str]) -> Iterator[None]:
    """Note the error of a job that cannot be computed, so that the others go on.

    Raises the error if there are no others, or if a server or a hub does not answer.
    """
    try:
        yield
    except (CannotServe, ModelError, JobBlocked) as error:
        if len(plan.jobs) == 1 or exit_code(error) == UNREACHABLE:
            raise
        unserved[call] = str(error)
        warn(unserved[call])


def enqueue_batch(settings: Settings, plan: BatchPlan, max_cost: float | None) -> list[Enqueued]:
    """Store the jobs of a batch file for the workers, and return them. Raises WorkerError if there is none."""
    account = _limit_cost(settings, plan, max_cost)
    with open_store(settings) as database:
        listener, submitted = listen(), []
        for call in plan.jobs:
            _say_next(plan, call)
            opened = plan.source(call).opened
            with _noting_refusal(plan, call, {}):
                submitted.append(submit(settings, database, plan.request(call), listener, opened, account))
    if not submitted:
        raise WorkerError("no request of the file can be carried out; --out FILE writes the reasons")
    return submitted


def _limit_cost(settings: Settings, plan: BatchPlan, max_cost: float | None) -> Account:
    specs = [spec for _, spec in plan.jobs.values()]
    digest = sha256("".join([plan.file.digest, *(spec.sha256.hex() for spec in specs)]).encode()).hexdigest()
    return limit_cost(settings, max_cost, specs, f"batch {digest[:_DIGITS]}")


def _say_next(plan: BatchPlan, call: Call) -> None:
    """Say which of several jobs is next."""
    if len(plan.jobs) > 1:
        named = f", {call.model}" if call.model else ""
        say(f"Job {[*plan.jobs].index(call) + 1} of {len(plan.jobs)}: {call.url}{named}")


def write_answers(
    settings: Settings, plan: BatchPlan, statuses: Mapping[Call, JobStatus], out: Path, errors: Path
) -> Counter[str]:
    """Write the answers to `out`, and the errors to `errors`. If both are one file, write the lines in their order.

    Return the numbers of `completed` requests, of `refused` lines, and of other requests that `failed`.
    """
    counts = Counter[str]()
    with open_store(settings) as database, tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as aside:
        jobs = {call: JobAnswers(database, status.id, _describe_lack(status)) for call, status in statuses.items()}
        lines = answer_lines(plan.file, jobs, plan.unfit)

        def kept() -> Iterator[writer.Line]:
            for line, was_refused in lines:
                wrong = writer.is_error(line)
                counts["refused" if was_refused else "failed" if wrong else "completed"] += 1
                if wrong and errors != out:
                    aside.write(to_json(line) + b"\n")
                else:
                    yield line

        _write(out, kept())
        # An earlier run's errors would otherwise be taken for this one's.
        if aside.tell() or (errors != out and errors.exists()):
            aside.seek(0)
            _write(errors, map(orjson.loads, aside))
    return counts


def _describe_lack(status: JobStatus) -> tuple[str, str]:
    return "batch_cancelled", f"job {status.id} is {status.state}, and the request has no result"


def _write(path: Path, lines: Iterator[writer.Line]) -> None:
    if path == STDOUT:
        write_out(lines)
    else:
        replace(Target.of(path, writer.NAME), writer=JSONL).write(lines)


def name_errors_file(out: Path) -> Path:
    """Return the file of errors beside a file of answers: results.errors.jsonl beside results.jsonl."""
    if out == STDOUT:
        return out
    compression = out.suffix if out.suffix.lower() in COMPRESSIONS else ""
    name = Path(out.name.removesuffix(compression))
    return out.with_name(f"{name.stem}.errors{name.suffix}{compression}")


def say_written(counts: Counter[str], out: Path, errors: Path) -> None:
    """Say where the answers and the errors are."""
    n_errors = counts["refused"] + counts["failed"]
    answers, failed = counted(counts["completed"], "answer"), counted(n_errors, "error")
    out_name, errors_name = ("stdout" if path == STDOUT else str(path) for path in (out, errors))
    if out == errors:
        message = f"Wrote {answers} and {failed} to {out_name}."
    elif n_errors:
        message = f"Wrote {answers} to {out_name}, and {failed} to {errors_name}."
    else:
        message = f"Wrote {answers} to {out_name}; there were no errors."
    (warn if n_errors else say)(message)


_STATUS = {Reason.DOCUMENT.value: HTTPStatus.BAD_REQUEST, None: HTTPStatus.BAD_REQUEST}


class JobAnswers:
    """The results and failures of one job, read in the order of its source. A removed job has none.

    ``lacking`` has the code and the message for requests that have neither.
    """

    def __init__(self, database: Database, job_id: int, lacking: tuple[str, str]) -> None:
        self._lacking = lacking
        self._rows: Iterator[Row] = results(database, job_id)
        self._next: Row | None = None
        # Documents by their id, and rejected records by their place.
        self._failures: dict[str, Mapping[str, Any]] = {}
        with suppress(NotFound):
            self._next = next(self._rows, None)
            self._failures = {row["id"]: row for row in failures(database, job_id)}

    def line(self, request: BatchRequest, created: int) -> Line:
        """Return the answer to a request; requests come in the order of the source."""
        rows = []
        # Documents of lines that an earlier run carried out and this one refuses are passed over.
        while self._next is not None and (line := find_request(self._next)["line"]) <= request.line:
            if line == request.line:
                rows.append(self._next)
            self._next = next(self._rows, None)
        if len(rows) == len(request.keys):
            return make_answer(rows, created, request.where)
        failure = next((self._failures[key] for key in (*request.keys, request.where) if key in self._failures), None)
        if failure is None:
            return make_unanswered(request.custom_id, *self._lacking)
        failed = _STATUS.get(failure["class"], HTTPStatus.INTERNAL_SERVER_ERROR)
        return make_error(request.custom_id, request.where, failure["reason"], failed)


def answer_lines(
    batch: BatchFile, jobs: Mapping[Call, JobAnswers], unfit: Mapping[Call, str]
) -> Iterator[tuple[Line, bool]]:
    """Yield the answer to each line of a batch file, and True for a line that was refused.

    `unfit` has the reasons why calls make no job.
    """
    created = int(time.time())
    for request in batch.requests():
        refusal = find_refusal(request, unfit)
        if refusal is not None:
            yield make_error(next(iter(refusal.keys), None), refusal.where, refusal.reason), True
        elif not isinstance(request, Rejection):
            yield jobs[request.call].line(request, created), False
