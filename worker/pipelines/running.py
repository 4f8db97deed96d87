"""A pipeline becomes a job: here by hand, or on a worker when it is due."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from docmill.storage.core.database import Database
from docmill.storage.deletion import retention
from docmill.storage.errors import PASSING, ExportBlocked, LeaseLost, StorageError
from docmill.storage.pipelines import pipelines
from docmill.storage.pipelines.pipelines import Run
from docmill.storage.readers import open_source
from docmill.storage.results import parts
from docmill.storage.results.results import Placed
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps import replacements
from docmill.storage.steps.conditions import find_filter
from docmill.storage.steps.steps import StepRequest
from docmill.storage.writers import Target
from docmill.tasks.errors import HubUnreachable, TaskError
from docmill.worker.concurrency import HeldLease, hold_lease
from docmill.worker.errors import WorkerError, put_place
from docmill.worker.exports import read_table
from docmill.worker.formatting import counted
from docmill.worker.pipelines.file import Pipeline, parse
from docmill.worker.pipelines.schema import step_table
from docmill.worker.prices import limit_cost
from docmill.worker.settings import Settings
from docmill.worker.submit.enqueue import UnderLease, enqueue
from docmill.worker.submit.rehearsal import require_possible
from docmill.worker.submit.request import Prepared, check_corpus_name, pin_step, source_options

if TYPE_CHECKING:
    from docmill.worker.queue.broker import Broker

log = logging.getLogger("docmill.pipelines")

_OPTION = re.compile(r"--([a-z][a-z-]*)")


def prepare_pipeline(settings: Settings, pipeline: Pipeline, devices: Sequence[str] = ()) -> Prepared:
    """Check everything that can be checked before anything is stored.

    ``devices`` are this machine's devices that will compute it; none if workers will.

    Raises SourceError for the source, WorkerError for a step that its model cannot do, HubUnreachable,
    StorageError for leave-out.
    """
    corpus = pipeline.corpus
    for step in pipeline.steps:
        if step.leaves_out is not None:
            find_filter(step.leaves_out).require()
    source = open_source(corpus.source, source_options(corpus, [step.options for step in pipeline.steps]))
    steps = requests_of(settings, pipeline, lambda step: require_possible(settings, step.specs, devices))
    name = check_corpus_name(corpus.name or pipeline.name)
    return Prepared(corpus, pipeline.job, steps, source, name)


def requests_of(
    settings: Settings, pipeline: Pipeline, check: Callable[[StepRequest], object] = lambda _: None
) -> tuple[StepRequest, ...]:
    """Return the steps of a pipeline as its file says. `check` may raise a TaskError about a step.

    Raises WorkerError, HubUnreachable.
    """
    requests = []
    for number, step in enumerate(pipeline.steps):
        dtype = settings.dtype if step.options.dtype == "auto" else step.options.dtype
        options = step.options.model_copy(update={"dtype": dtype})
        with _placed(pipeline, number):
            requests.append(pin_step(settings, replace(step, options=options)))
            check(requests[-1])
    return tuple(requests)


@contextmanager
def _placed(pipeline: Pipeline, number: int) -> Iterator[None]:
    """Give an error of a step its place in the pipeline's file."""
    step = pipeline.steps[number]
    try:
        yield
    except HubUnreachable:
        raise
    except TaskError as error:
        keys = {field.alias for field in step_table(step.task).model_fields.values()}
        named = [name for name in _OPTION.findall(str(error)) if name in keys]
        # A key of the file is the option of the command line without its dashes.
        said = _OPTION.sub(lambda option: option[option[1] in keys], str(error))
        raise WorkerError(f"{pipeline.path}: {put_place(('step', number, *named[:1]), said)}") from error


def replace_migrated(
    settings: Settings, database: Database, prepared: Prepared, say: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Return a run with the models that its corpus was migrated to, in place of those in the file. Say which.

    The run's cost limit has the prices of these models. Raises WorkerError if one has no price.
    """
    steps = replacements.substitute_specs(database, prepared.corpus, prepared.steps)
    for before, after in zip(prepared.steps, steps, strict=True):
        if before.spec != after.spec:
            log.info("step_migrated step=%s from=%r to=%r", before.name, before.spec.model, after.spec.model)
            say(f"Step {before.name}: the corpus was migrated; {after.spec.model} replaces {before.spec.model}.")
    migrated = replace(prepared, steps=steps)
    return replace(migrated, account=limit_cost(settings, prepared.job.max_cost, migrated.specs))


def _log_remark(said: str) -> None:
    log.warning("output_lacks %s", said)


@dataclass(frozen=True)
class LeasedExport(parts.ExportProgress):
    """Lets parts be written for as long as the run is held."""

    held: HeldLease
    say: Callable[[str], None]

    def along(self, rows: Iterator[Placed], before: int) -> Iterable[Placed]:
        return self.held.along(rows)

    def remarked(self, said: str) -> None:
        self.say(said)


def export(
    database: Database,
    pipeline: Pipeline,
    job_id: int,
    held: HeldLease,
    say: Callable[[str], None] = _log_remark,
) -> int | None:
    """Write the pipeline's output, if it has one, from a job of it. Returns how many documents.

    Parts of another run are replaced, those of this one carried on. Raises LeaseLost, which leaves an output file as
    it was, ExportBlocked for parts, FormatUnfit, StorageError and OSError.
    """
    output = pipeline.output
    if output.file is None:
        return None
    target = Target.of(Path(output.file), output.format)
    if output.part_documents is not None:
        return parts.export(
            database, job_id, target, output.part_documents, replaced=True, progress=LeasedExport(held, say)
        ).documents
    table = read_table(database, job_id, target.writer)
    written = target.write(held.along(table.rows), table.columns)
    if written.remark:
        say(f"{target}: {written.remark}")
    return int(written)


def hold_run(
    database: Database, run: Run, lease_s: float, stop: threading.Event | None = None
) -> AbstractContextManager[HeldLease]:
    """Return a context that holds the lease of a run."""
    return hold_lease(f"run {run.id}", lambda: pipelines.renew(database, run, lease_s), lease_s, stop=stop)


def advance(
    settings: Settings,
    database: Database,
    broker: Broker,
    run_id: int,
    *,
    owner: str,
    stop: threading.Event | None = None,
) -> None:
    """Take a run further under a lease: read the source of one that is due, conclude one whose job has ended.

    What is wrong with it ends the run with the reason. A database that is away, or answers with an unknown error,
    ends nothing. Nor does another worker that is writing the run's parts, or a job whose results still change: the
    run is handed out again after a while. Once `stop` is set it is given back.
    """
    run = pipelines.take(database, run_id, owner, settings.lease_s)
    if run is None:
        return
    with hold_run(database, run, settings.lease_s, stop) as held:
        try:
            _take_further(settings, database, broker, run, held)
        except LeaseLost as error:
            log.warning("run_left run=%d reason=%r", run.id, str(error))
            _let_go(database, run, at_once=True)
        except (*PASSING, ExportBlocked) as error:
            log.warning("run_waits run=%d error=%s", run.id, error)
            _let_go(database, run, at_once=False)
        except (WorkerError, TaskError, StorageError, OSError) as error:
            reason = str(error)
            log.error(
                "run_failed run=%d pipeline=%s error=%s reason=%r", run.id, run.name, type(error).__name__, reason
            )
            pipelines.note(database, run, "failed", reason=reason)
    if run.state == "reading":
        with suppress(StorageError):  # a reader of sources may have rights to delete that maintenance lacks
            retention.sweep(database, settings.ages)


def _let_go(database: Database, run: Run, *, at_once: bool) -> None:
    with suppress(StorageError):  # then the lease lapses by itself
        pipelines.let_go(database, run, at_once=at_once)


def _take_further(settings: Settings, database: Database, broker: Broker, run: Run, held: HeldLease) -> None:
    path, text = pipelines.file_of(database, run)
    pipeline = parse(text, Path(path))
    if run.state == "reading":
        progress = UnderLease(held, lambda job: pipelines.note(database, run, "reading", job_id=job.id))
        prepared = replace_migrated(settings, database, prepare_pipeline(settings, pipeline))
        done = enqueue(database, broker, prepared, progress)
        pipelines.note(database, run, "running", job_id=done.id)
        log.info("run_started run=%d pipeline=%s job=%d planned=%d", run.id, run.name, done.id, done.counts.planned)
    elif run.job_id is not None:
        conclude(database, run, pipeline, read_status(database, run.job_id), held)


def conclude(database: Database, run: Run, pipeline: Pipeline, status: JobStatus, held: HeldLease) -> None:
    """End a run whose job has ended: write its output, and note its state.

    Raises ExportBlocked if the job goes on, as after a retry, and the errors of `export`.
    """
    if not status.ended:
        raise ExportBlocked
    if status.state == "done":
        export(database, pipeline, status.id, held)
    state, reason = outcome(status)
    pipelines.note(database, run, state, reason=reason)


def outcome(status: JobStatus) -> tuple[str, str | None]:
    """Return the state of a run whose job has ended, and the reason, or a remark on documents without a result."""
    if status.state != "done":
        return "failed", f"job {status.id} was {status.state}"
    lacking = [f"{counted(status.failed, 'text')} failed"] if status.failed else []
    if status.rejected:
        lacking.append(f"{counted(status.rejected, 'record')} {'was' if status.rejected == 1 else 'were'} rejected")
    said = [f"{' and '.join(lacking)}: docmill failures {status.id}"] if lacking else []
    return "done", ". ".join([*said, *filter(None, [status.not_pruned])]) or None
