"""A small corpus, and what tests do with it: read a source, claim shards, compute outcomes, look at the store."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import itemgetter
from threading import Barrier
from typing import Any, TypeVar

from sqlalchemy import and_, event, func, select, update

from docmill.storage.core import lookups
from docmill.storage.core.database import Database
from docmill.storage.core.schema import Content, Document, OutcomeRow, ReplacementRow, Shard, db_now
from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.core.transaction import Transaction
from docmill.storage.ingest import ingest
from docmill.storage.ingest.chunks import Chunk, ChunkBuilder
from docmill.storage.ingest.ingest import Counts
from docmill.storage.leases import dispatch, shards
from docmill.storage.leases.shards import Claim, ShardHead
from docmill.storage.pipelines import pipelines
from docmill.storage.pipelines.pipelines import Run
from docmill.storage.readers import Rejection
from docmill.storage.results.status import read_status
from docmill.storage.steps import jobs, lineage
from docmill.storage.steps.jobs import JobRequest, OpenJob
from docmill.storage.steps.replacements import SWITCHED
from docmill.storage.steps.sharding import unpack
from docmill.storage.steps.steps import StepRequest
from tests.worker.harness import DEADLINE_S

T = TypeVar("T")
Text = tuple[str, str]  # a key and its text

COPY = Spec("copy", "copier", "sha256:1")
EMBED = Spec("embed", "minilm", "sha256:1")
TRANSLATE = Spec("translate", "marian", "sha256:2")


def request(
    source: str = "a.jsonl",
    *,
    corpus: str = "books",
    spec: Spec = COPY,
    steps: Sequence[StepRequest] = (),
    **more: Any,
) -> JobRequest:
    """Return a request for a job of these steps, or of one step with this spec."""
    return JobRequest(corpus=corpus, source=source, steps=tuple(steps) or (StepRequest(spec.kind, spec),), **more)


Record = tuple[str, str, dict[str, Any], tuple[str, ...], int]  # key, text, metadata, flags, place in the source


def make_chunk(*records: Record) -> Chunk:
    """Return a chunk of these records."""
    builder = ChunkBuilder()
    for record in records:
        builder.put(*record)
    return builder.chunk()


def records(texts: Iterable[Text], first: int = 0) -> Chunk:
    """Return a chunk of these texts, whose metadata have their lengths."""
    return make_chunk(*[(key, text, {"n": len(text)}, (), seq) for seq, (key, text) in enumerate(texts, first)])


def chunks(texts: Sequence[Text], size: int) -> list[Chunk]:
    return [records(texts[first : first + size], first) for first in range(0, len(texts), size)]


def read(
    database: Database,
    job_request: JobRequest,
    texts: Sequence[Text],
    *,
    chunk: int = 1_000,
    stop_after: int | None = None,
) -> OpenJob:
    """Read a source of these texts into a job: to its end, or until it is cut off after some chunks."""
    job = jobs.open_job(database, job_request)
    counts = Counts()
    for part in chunks(texts, chunk)[:stop_after]:
        counts += ingest.add(database, job, part)
    if stop_after is None:
        ingest.end(database, job, counts)
    return job


def read_chunk(
    database: Database, job_request: JobRequest, chunk: Chunk, rejected: Sequence[Rejection] = ()
) -> OpenJob:
    """Read a source of one chunk and some rejected records into a job, to its end."""
    job = jobs.open_job(database, job_request)
    ingest.end(database, job, ingest.add(database, job, chunk, rejected))
    return job


def numbered(n: int, first: int = 0) -> list[Text]:
    """Return n texts with the keys k0, k1 and so on."""
    return [(f"k{i}", f"text {i}") for i in range(first, first + n)]


def dispatch_shards(database: Database) -> list[int]:
    """Offer shards of all lanes to the queue once. Return the ids of the shards that were queued."""
    return [shard_id for lane in dispatch.lanes(database) for shard_id in take(database, lane)]


def take(database: Database, lane: dispatch.LaneWindow) -> list[int]:
    """Offer shards of a lane. Return the ids of the shards that were queued."""
    ahead, behind = dispatch.take(database, lane)
    return [*ahead, *behind]


def queued(database: Database) -> list[int]:
    """Return the ids of the shards in the queue."""
    return list(database.values(select(Shard.id).where(Shard.state == "queued").order_by(Shard.id)))


def sign_on(database: Database, worker_id: str, *lanes: str, slots: int = 4, host: str = "host", **more: Any) -> None:
    """Sign a worker on that serves these lanes, or the lane `copy`."""
    details: dict[str, Any] = {"pid": 1, "device": "cpu", "version": "0", **more}
    dispatch.sign_on(database, worker_id, host=host, lanes=list(lanes or ("copy",)), slots=slots, **details)


def claim_next(database: Database, owner: str = "w1") -> Claim:
    """Dispatch and claim the next shard."""
    return claim_shard(database, (queued(database) or dispatch_shards(database))[0], owner)


def claim_shard(database: Database, shard_id: int, owner: str = "w1") -> Claim:
    """Claim a shard that is in the queue."""
    claim = try_claim(database, shard_id, owner)
    assert claim is not None
    return claim


def try_claim(database: Database, shard_id: int, owner: str = "w1") -> Claim | None:
    """Claim a shard; return None if nobody may."""
    head = shards.look(database, shard_id)
    return None if head is None else shards.claim(database, head, owner)


def look(database: Database, shard_id: int) -> ShardHead:
    """Look at a shard that is in the queue, as a worker does before it claims the shard."""
    head = shards.look(database, shard_id)
    assert head is not None
    return head


def done(claim: Claim, text: str = "out") -> list[Outcome]:
    """Return a result for each text of a claim."""
    return [Outcome(content_id, Status.DONE, text=text, tokens_in=3, tokens_out=2) for content_id, _ in claim.texts]


def echo(claim: Claim) -> list[Outcome]:
    """Return a result that names its text, for each text of a claim."""
    return [
        replace(outcome, text=f"out of {text}") for outcome, (_, text) in zip(done(claim), claim.texts, strict=True)
    ]


def flagged(claim: Claim, *flags: str) -> list[Outcome]:
    """Return a result with these flags, or with doubtful ones, for each text of a claim."""
    return [replace(outcome, flags=flags or ("repetition", "empty")) for outcome in done(claim)]


def embedded(claim: Claim) -> list[Outcome]:
    """Return a vector for each text of a claim."""
    return [Outcome(content_id, Status.DONE, vector=b"\0\0\x80?", tokens_in=3) for content_id, _ in claim.texts]


def store_short_vector(database: Database) -> None:
    """Replace the first vector by one of two numbers, as another model computed it for an earlier docmill."""
    first = select(func.min(OutcomeRow.content_id)).where(OutcomeRow.vector.is_not(None)).scalar_subquery()
    short = update(OutcomeRow).where(OutcomeRow.content_id == first).values(vector=struct.pack("<2f", 1, 0))
    database.execute(short)


def failed(claim: Claim, reason_class: Reason = Reason.DOCUMENT) -> list[Outcome]:
    """Return a failure for each text of a claim."""
    return [
        Outcome(content_id, Status.FAILED, reason="it would not", reason_class=reason_class)
        for content_id, _ in claim.texts
    ]


def by_text(output: Callable[[str], dict[str, Any] | None]) -> Callable[[Claim], list[Outcome]]:
    """Return a function that computes outcomes from the values of `output` for a text; None is a failure."""

    def outcome(content_id: int, text: str) -> Outcome:
        if (values := output(text)) is None:
            return Outcome(content_id, Status.FAILED, reason="too long", reason_class=Reason.DOCUMENT)
        return Outcome(content_id, Status.DONE, **values)

    return lambda claim: [outcome(*text) for text in claim.texts]


def work(database: Database, outcomes: Callable[[Claim], Sequence[Outcome]] = done, owner: str = "w1") -> int:
    """Dispatch, claim and commit until nothing is left. Return the number of shards.

    A top-up beside a cancel may leave a shard of the cancelled job in the queue, where nobody can claim it.
    """
    n, before = 0, -1
    while n > before:
        before = n
        for shard_id in [*queued(database), *dispatch_shards(database)]:
            if (claim := try_claim(database, shard_id, owner)) is not None:
                shards.commit(database, claim, outcomes(claim), None)
                n += 1
    return n


def read_and_claim(database: Database, n: int) -> Claim:
    """Read a source of n texts, and claim its first shard."""
    read(database, request(), numbered(n))
    return claim_next(database)


def commit_next(
    database: Database, outcomes: Callable[[Claim], Sequence[Outcome]] = done, owner: str = "w1"
) -> Claim:
    """Dispatch, claim and commit the next shard."""
    claim = claim_next(database, owner)
    shards.commit(database, claim, outcomes(claim), None)
    return claim


def finish(database: Database, outcomes: Callable[[Claim], Sequence[Outcome]] = done) -> None:
    """Work until nothing is left, and end the jobs."""
    work(database, outcomes)
    jobs.finish(database)


def run_job(
    database: Database,
    job_request: JobRequest,
    texts: Sequence[Text],
    outcomes: Callable[[Claim], Sequence[Outcome]] = done,
    **reading: Any,
) -> OpenJob:
    """Read a source of these texts into a job, work until nothing is left, and end the jobs."""
    job = read(database, job_request, texts, **reading)
    finish(database, outcomes)
    return job


def set_shard(database: Database, shard_id: int, **values: Any) -> None:
    """Set columns of a shard, such as its times."""
    database.execute(update(Shard).where(Shard.id == shard_id).values(**values))


def lapse(database: Database, shard_id: int) -> None:
    """Let the lease of a shard lapse."""
    set_shard(database, shard_id, lease_until=db_now() - 1.0)


def shard(database: Database, shard_id: int) -> Any:
    """Return the row of a shard."""
    return database.row(select(Shard).where(Shard.id == shard_id))


def shards_of(database: Database, job: OpenJob | int) -> list[Any]:
    """Return the rows of a job's shards."""
    job_id = job if isinstance(job, int) else job.id
    return list(database.rows(select(Shard).where(Shard.job_id == job_id).order_by(Shard.id)))


def planned(database: Database, job: OpenJob) -> Counter[str]:
    """Count each text in the job's shards, without shards that were split."""
    ids = Counter(
        content_id for row in shards_of(database, job) if row.state != "split" for content_id in unpack(row.contents)
    )
    texts = {row.id: row.text for row in database.rows(select(Content.id, Content.text).where(Content.id.in_(ids)))}
    return Counter({texts[content_id]: n for content_id, n in ids.items()})


def documents(
    database: Database, job: OpenJob | int | None = None, *, corpus_id: int | None = None
) -> dict[str, str]:
    """Return the texts by key that a job covers, or that a corpus or all corpora have now. No key is there twice."""
    condition: Any = and_(Document.superseded_by.is_(None), ~Document.gone)
    if corpus_id is not None:
        condition = and_(condition, Document.corpus_id == corpus_id)
    if job is not None:
        condition = lineage.visible(jobs.require(database, job if isinstance(job, int) else job.id))
    rows = database.rows(
        select(Document.corpus_id, Document.key, Content.text)
        .join(Content, Content.id == Document.content_id)
        .where(condition)
    )
    assert len({(row.corpus_id, row.key) for row in rows}) == len(rows)
    return {row.key: row.text for row in rows}


def assert_status(database: Database, job_id: int, **expected: object) -> None:
    """Assert values of the status of a job."""
    status = read_status(database, job_id)
    actual = {name: getattr(status, name) for name in expected}
    assert actual == expected, actual


def count_rows(database: Database, table: Any) -> int:
    return database.value(select(func.count()).select_from(table)) or 0


def n_documents(database: Database) -> int:
    """Count the rows of the document table, superseded ones too."""
    return count_rows(database, Document)


def outcomes(database: Database) -> dict[tuple[str, str], str]:
    """Return the status of each stored outcome, by spec and text."""
    rows = database.rows(
        select(OutcomeRow.spec_id, Content.text, OutcomeRow.status).join(Content, Content.id == OutcomeRow.content_id)
    )
    return {(str(row.spec_id), row.text): row.status for row in rows}


def is_lock_awaited(database: Database) -> bool:
    """Return True if a session of a PostgreSQL database waits for a lock of another."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.read() as transaction:
        return transaction.exec_driver_sql(waiting).first() is not None


NIGHTLY = {"cron": "30 3 * * *", "timezone": "UTC", "overlap": "skip"}


def keep_pipeline(database: Database, schedule: dict[str, str] | None = NIGHTLY, name: str = "nightly") -> Any:
    """Store a pipeline with a schedule. Return it as a scheduler finds it."""
    pipelines.put(database, name, "/x/nightly.toml", "name = 'nightly'", schedule)
    return next((row for row in pipelines.scheduled(database) if row.name == name), None)


def fire_run(database: Database, due_at: float = 100.0) -> int:
    """Fire the only scheduled pipeline. Return the number of the run."""
    run_id = pipelines.fire(database, pipelines.scheduled(database)[0], due_at)
    assert run_id is not None
    return run_id


def take_run(database: Database, run_id: int, owner: str = "w1") -> Run:
    """Take a run that is due or free."""
    run = pipelines.take(database, run_id, owner, 60.0)
    assert run is not None
    return run


def read_view(database: Database, name: str) -> list[dict[str, Any]]:
    """Return the rows of a view, in the order of their ids."""
    with database.read() as transaction:
        rows = transaction.exec_driver_sql(f"SELECT * FROM {name}").mappings().all()
    return [
        {column: bytes(value) if isinstance(value, memoryview) else value for column, value in row.items()}
        for row in sorted(rows, key=itemgetter("id"))
    ]


def record_statements(database: Database) -> list[tuple[str, Any]]:
    """Return a list that gets each statement that the database executes from now on, with its parameters."""
    statements: list[tuple[str, Any]] = []

    def record(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", record)
    return statements


def limit_sqlite(database: Database, category: int, limit: int) -> None:
    """Lower a limit of SQLite for new connections."""
    event.listen(database.engine, "connect", lambda connection, _: connection.setlimit(category, limit))


def at_once(*acts: Callable[[], T]) -> list[T]:
    """Run functions in threads that start together. Return their values, or raise the first error."""
    barrier = Barrier(len(acts))

    def start(act: Callable[[], T]) -> T:
        barrier.wait(DEADLINE_S)
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return [future.result(DEADLINE_S) for future in [pool.submit(start, act) for act in acts]]


def migrate(database: Database, corpus_id: int, old: Spec, new: Spec) -> int:
    """Replace a spec by another in a corpus, as the end of a migration does. Return the id of the replacement."""

    def work(transaction: Transaction) -> int:
        specs = {"old_spec_id": lookups.spec_id(transaction, old), "new_spec_id": lookups.spec_id(transaction, new)}
        values = {"corpus_id": corpus_id, "old_job_id": 1, "state": SWITCHED, "created_at": db_now(), **specs}
        return lookups.insert_row(transaction, ReplacementRow, **values)

    return database.write(work)
