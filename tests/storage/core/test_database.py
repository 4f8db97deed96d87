"""Every function of the store against a database that is locked, unreachable or read-only."""

from __future__ import annotations

import pickle
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import IntegrityError

from storage import errors, migrations
from storage.core import corpus, get_or_create
from storage.core.clock import db_now
from storage.core.database import Database
from storage.core.transaction import Transaction
from storage.deletion import cost, gc, removal, retention, selection, tracing
from storage.errors import (
    DatabaseBusy,
    DatabaseReadOnly,
    DatabaseUnreachable,
    DatabaseUrlUnknown,
    SchemaOutOfDate,
    StorageError,
    UnexpectedDatabaseError,
    ValueRefused,
)
from storage.ingest import ingest, pruning
from storage.leases import dispatch, grace, health, maintenance, shards
from storage.leases.shards import Claim, Head
from storage.pipelines import pipelines
from storage.pipelines.pipelines import Run
from storage.results import corpora, fingerprint, flag_counts, results, status
from storage.steps import job_keys, jobs
from storage.steps.job_keys import IdempotencyKey
from storage.steps.jobs import OpenJob
from storage.steps.steps import OpenStep
from tests.conftest import PostgresServer
from tests.kinds import KINDS
from tests.storage.builders import (
    COPY,
    at_once,
    claim_next,
    documents,
    done,
    failed,
    lapse,
    numbered,
    queued,
    read,
    records,
    request,
)

PASSWORD = "kanarienvogel"
RUNTIME = {"device": "cpu", "precision": "float32", "backend": "stub", "versions": {}}

DUE = SimpleNamespace(id=1, schedule={"overlap": "queue"}, looked_at=0.0, now=2.0)
RUN = Run(1, 1, "nightly", "/x", "", 1.0, "reading", None)
JOB = OpenJob(
    id=1, ingest_id=1, corpus_id=1, steps=(OpenStep(0, "copy", 1, "copy", None),), adopted=False, last_before=9
)
HEAD = Head(shard_id=1, fence=0, lane="copy", suspect=False, spec_id=1, spec=COPY)
CLAIM = Claim(
    shard_id=1,
    job_id=1,
    fence=1,
    owner="w1",
    attempt=1,
    suspect=0,
    redo=False,
    spec_id=1,
    contents=(1,),
    texts=((1, "text 0"),),
)

MODULES = (
    *(gc, corpora, corpus, cost, dispatch, grace, health, ingest, jobs, fingerprint, migrations, pipelines, pruning),
    *(
        job_keys,
        flag_counts,
        removal,
        retention,
        results,
        get_or_create,
        selection,
        shards,
        status,
        tracing,
        maintenance,
    ),
)
READS: dict[str, Callable[[Database], Any]] = {
    "cost.of_collecting": cost.of_collecting,
    "cost.of_dropping": partial(cost.of_dropping, older_than_s=0.0),
    "cost.of_removing": partial(cost.of_removing, older_than_s=0.0),
    "gc.specs": partial(gc.specs, wanted="embed/minilm"),
    "corpora.every": corpora.every,
    "corpora.show": partial(corpora.show, name="books"),
    "corpus.corpus_named": partial(corpus.corpus_named, name="books"),
    "corpus.first_existing": partial(corpus.first_existing, names=["books"]),
    "dispatch.lanes": dispatch.lanes,
    "health.health": partial(health.health, host="h"),
    "dispatch.live_workers": dispatch.live_workers,
    "dispatch.neighbours": partial(dispatch.neighbours, pid_space="here"),
    "job_keys.find": partial(job_keys.find, key=IdempotencyKey("k", {})),
    "jobs.require": partial(jobs.require, job_id=1),
    "dispatch.unfinished_beside": partial(dispatch.unfinished_beside, job_id=1, lanes=["copy"], limit=3),
    "migrations.current": migrations.current,
    "migrations.require_current": migrations.require_current,
    "removal.missing": partial(removal.missing, name="books", keys=["k0"]),
    "results.samples": partial(results.samples, job_id=1),
    "results.count_doubtful": partial(results.count_doubtful, job_id=1),
    "results.columns": partial(results.columns, job_id=1),
    "flag_counts.count_flags": partial(flag_counts.count_flags, job_id=1),
    "fingerprint.marks": partial(fingerprint.marks, job_id=1),
    "results.placed_results": lambda database: list(results.placed_results(database, 1)),
    "results.failures": lambda database: list(results.failures(database, 1)),
    "results.results": lambda database: list(results.results(database, 1)),
    "shards.look": partial(shards.look, shard_id=1),
    "status.list_statuses": status.list_statuses,
    "pipelines.every": pipelines.every,
    "pipelines.get": partial(pipelines.get, name="nightly"),
    "pipelines.history": partial(pipelines.history, name="nightly"),
    "pipelines.scheduled": pipelines.scheduled,
    "retention.forget_jobs": partial(retention.forget_jobs, older_than_s=1e9),
    "retention.forget_rejections": partial(retention.forget_rejections, older_than_s=1e9),
    "retention.forget_runs": partial(retention.forget_runs, older_than_s=1e9),
    "retention.forget_step_texts": partial(retention.forget_step_texts, older_than_s=1e9),
    "retention.sweep": partial(retention.sweep, older_than_s=1e9),  # there is nothing so old
    "pipelines.is_any_open": pipelines.is_any_open,
    "pipelines.let_go_all": partial(pipelines.let_go_all, owner="w1"),  # there is nothing to let go
    "status.read_status": partial(status.read_status, job_id=1),
    "selection.count_vanished": selection.count_vanished,
    "selection.select_keys": partial(selection.select_keys, name="books"),
    "tracing.trace": partial(tracing.trace, text="text 0"),
}
WRITES: dict[str, Callable[[Database], Any]] = {
    "gc.collect": gc.collect,
    "gc.drop": gc.drop,
    "dispatch.accept": partial(dispatch.accept, worker_id="w1", spec_id=1),
    "dispatch.put_back": partial(dispatch.put_back, shard_ids=[1]),
    "dispatch.refuse": partial(dispatch.refuse, worker_id="w1", spec_id=1, reason="no"),
    "dispatch.sign_off": partial(dispatch.sign_off, worker_id="w1"),
    "dispatch.sign_on": partial(
        dispatch.sign_on, worker_id="w1", host="h", pid=1, device="cpu", lanes=["copy"], slots=1, version="0"
    ),
    "dispatch.take": partial(dispatch.take, lane=dispatch.Lane("copy", 1, 0)),
    "dispatch.withdraw": partial(dispatch.withdraw, lanes=["copy"]),
    "grace.contact": partial(grace.contact, lease_s=60.0),
    "ingest.add": partial(ingest.add, job=JOB, chunk=records(numbered(1))),
    "pruning.prune": partial(pruning.prune, job=JOB, seen=pruning.Seen(), limits=pruning.Limits(most_percent=100)),
    "pipelines.put": partial(pipelines.put, name="nightly", path="/x", text="", schedule=None),
    "pipelines.remove": partial(pipelines.remove, name="nightly"),
    "pipelines.fire": partial(pipelines.fire, found=DUE, due_at=1.0),
    "pipelines.begin": partial(pipelines.begin, name="nightly", owner="w1", lease_s=1.0),
    "pipelines.hand_out": pipelines.hand_out,
    "pipelines.renew": partial(pipelines.renew, run=RUN, lease_s=1.0),
    "pipelines.let_go": partial(pipelines.let_go, run=RUN, at_once=True),
    "pipelines.take": partial(pipelines.take, run_id=1, owner="w1", lease_s=1.0),
    "pipelines.note": partial(pipelines.note, run=RUN, state="done"),
    "ingest.end": partial(ingest.end, job=JOB),
    "jobs.cancel": partial(jobs.cancel, job_id=1),
    "jobs.finish": jobs.finish,
    "jobs.halt": partial(jobs.halt, job_id=1, reason="no"),
    "jobs.open_job": partial(jobs.open_job, request=request()),
    "jobs.pause": partial(jobs.pause, job_id=1),
    "jobs.prioritise": partial(jobs.prioritise, job_id=1, priority=1),
    "jobs.resume": partial(jobs.resume, job_id=1),
    "jobs.retry": partial(jobs.retry, job_id=1),
    "removal.remove_corpus": partial(removal.remove_corpus, name="books"),
    "removal.remove_documents": partial(removal.remove_documents, name="books", keys=["k0"]),
    "get_or_create.runtime_id": partial(get_or_create.runtime_id, runtime=RUNTIME),
    "shards.claim": partial(shards.claim, head=HEAD, owner="w1"),
    "shards.commit": partial(shards.commit, claim=CLAIM, outcomes=done(CLAIM), runtime_id=None),
    "shards.heartbeat": partial(shards.heartbeat, owner="w1"),
    "shards.keep": partial(shards.keep, claim=CLAIM, outcomes=done(CLAIM), runtime_id=None),
    "shards.release": partial(shards.release, claim=CLAIM, finished=done(CLAIM)),
    "maintenance.failed_attempt": partial(maintenance.failed_attempt, claim=CLAIM, reason="no"),
    "maintenance.forget_workers": maintenance.forget_workers,
    "maintenance.hold": partial(maintenance.hold, name="upkeep", owner="w1", for_s=1.0),
    "maintenance.let_go": partial(maintenance.let_go, name="upkeep", owner="w1"),
    "maintenance.lost_hints": partial(maintenance.lost_hints, lane="copy", queue_is_empty=True, grace_s=1.0),
    "maintenance.reclaim": maintenance.reclaim,
    "maintenance.release_owner": partial(maintenance.release_owner, owner="w1"),
}
every_read = pytest.mark.parametrize("act", READS.values(), ids=READS)
every_write = pytest.mark.parametrize("act", WRITES.values(), ids=WRITES)
everything = pytest.mark.parametrize("act", (READS | WRITES).values(), ids=READS | WRITES)


def test_every_function_that_takes_a_database_is_in_these_tests() -> None:
    found = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in MODULES
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", "") == module.__name__
        and not name.startswith("_")
        and list(getattr(value, "__annotations__", {}))[:1] == ["database"]
    }
    assert found - {"migrations.upgrade", "removal.settle"} == (READS | WRITES).keys()


def prepare(database: Database) -> None:
    """A job with a shard whose lease has lapsed (`CLAIM`), one that failed and one that is planned, a worker, and a
    pipeline that is due.
    """
    WRITES["dispatch.sign_on"](database)
    pipelines.put(database, "nightly", "/x", "", {"cron": "* * * * *", "timezone": "UTC", "overlap": "queue"})
    pipelines.fire(database, pipelines.scheduled(database)[0], 1.0)
    read(database, request(), numbered(600))
    lapse(database, claim_next(database).shard_id)
    claim = claim_next(database)
    shards.commit(database, claim, failed(claim), None)
    dispatch.put_back(database, queued(database))
    read(database, request("b.jsonl", corpus="loose"), [("k", "loose")])  # its document is gone, and not its text
    jobs.cancel(database, 2)
    loose = text("DELETE FROM document WHERE corpus_id = 2")
    database.write(lambda transaction: transaction.execute(loose))


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Another writer holds the file."""
    path = url.removeprefix("sqlite:///")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


@pytest.fixture
def prepared(sqlite_url: str) -> Iterator[Database]:
    """A SQLite store with something to do for every function, that loses its patience at once."""
    database = Database(sqlite_url, kinds=KINDS)
    prepare(database)
    database.close()
    impatient = Database(sqlite_url, retries=2, busy_timeout_s=0.01, kinds=KINDS)
    yield impatient
    impatient.close()


@every_write
def test_a_write_to_a_locked_sqlite_file_is_tried_again_and_then_says_that_it_is_busy(
    prepared: Database, act: Callable[[Database], Any]
) -> None:
    with locked(str(prepared)), pytest.raises(DatabaseBusy, match="locked by another writer"):
        act(prepared)


@every_read
def test_a_read_of_a_locked_sqlite_file_goes_on(prepared: Database, act: Callable[[Database], Any]) -> None:
    with locked(str(prepared)):
        act(prepared)


def test_a_write_waits_for_its_turn(sqlite_url: str) -> None:
    database = Database(sqlite_url, busy_timeout_s=10, kinds=KINDS)
    at_once(*[lambda n=n: read(database, request(corpus=f"c{n}"), numbered(50), chunk=5) for n in range(4)])
    assert len(documents(database, corpus_id=4)) == 50
    database.close()


@pytest.fixture(scope="module")
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@everything
def test_an_unreachable_server_is_named_without_its_password(
    closed_port: int, act: Callable[[Database], Any]
) -> None:
    database = Database(f"postgresql://reader:{PASSWORD}@127.0.0.1:{closed_port}/docmill")
    with pytest.raises(DatabaseUnreachable, match="cannot reach the database") as caught:
        act(database)
    assert f"127.0.0.1:{closed_port}" in str(caught.value)
    assert PASSWORD not in chain(caught.value)
    database.close()


def chain(error: BaseException | None) -> str:
    """Return an error and its causes as a traceback prints them."""
    said = ""
    while error is not None:
        said += f"{error!r} {error} "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return said


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_way_to_write_postgresql_is_understood(postgres_url: str, scheme: str) -> None:
    database = Database(f"{scheme}://{postgres_url.partition('://')[2]}")
    with database.read() as transaction:
        assert transaction.scalar(select(1)) == 1
    database.close()


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PASSWORD}@host:port/x",
        f"mysql://u:{PASSWORD}@host/x",
        f"{PASSWORD}",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_a_url_that_is_none_is_refused_without_saying_it(url: str) -> None:
    with pytest.raises(DatabaseUrlUnknown, match="DOCMILL_DATABASE_URL") as caught:
        Database(url)
    assert PASSWORD not in chain(caught.value)


def test_an_option_that_no_connection_has_is_said(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.url("postgres") + "?bogus=x")
    with pytest.raises(DatabaseUnreachable, match="bogus"):
        status.list_statuses(database)
    database.close()


def test_a_wrong_password_or_name_is_said_without_the_password(postgres_server: PostgresServer) -> None:
    url = postgres_server.url("no_such_database").replace("@", f":{PASSWORD}@")
    database = Database(url)
    with pytest.raises(DatabaseUnreachable, match="no_such_database") as caught:
        status.list_statuses(database)
    assert PASSWORD not in chain(caught.value)
    database.close()


@pytest.fixture
def read_only(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """A store with something to do for every function, that takes no writes."""
    database = Database(database_url, kinds=KINDS)
    prepare(database)
    database.close()
    if database.server is None:
        read_only = Database(f"sqlite:///file:{database.url.database}?mode=ro&uri=true", kinds=KINDS)
    else:
        options = "-csynchronous_commit=off -cdefault_transaction_read_only=on"
        read_only = Database(
            database.url.update_query_dict({"options": options}).render_as_string(hide_password=False),
            kinds=KINDS,
        )
    yield read_only
    read_only.close()


@every_write
def test_a_write_to_a_read_only_store_says_so_at_once(read_only: Database, act: Callable[[Database], Any]) -> None:
    with pytest.raises(DatabaseReadOnly):
        act(read_only)


@every_read
def test_a_read_only_store_can_be_read(read_only: Database, act: Callable[[Database], Any]) -> None:
    act(read_only)


@everything
def test_a_store_without_a_schema_says_what_to_do(tmp_path: Path, act: Callable[[Database], Any]) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new' / 'docmill.db'}")
    if act is not migrations.current:
        with pytest.raises(SchemaOutOfDate, match="docmill db upgrade"):
            act(database)
    database.close()


def test_a_postgresql_store_without_a_schema_says_what_to_do(bare_database: Database) -> None:
    with pytest.raises(SchemaOutOfDate, match="docmill db upgrade"):
        status.list_statuses(bare_database)


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "docmill.db").write_bytes(b"this is a text file and not a database at all" * 100)
    database = Database(f"sqlite:///{tmp_path / 'docmill.db'}")
    with pytest.raises(DatabaseUnreachable, match="not a database"):
        status.list_statuses(database)
    database.close()


def test_a_file_that_cannot_be_opened_says_what_it_takes(tmp_path: Path) -> None:
    (tmp_path / "docmill.db").mkdir()
    database = Database(f"sqlite:///{tmp_path / 'docmill.db'}")
    with pytest.raises(DatabaseUnreachable, match="unable to open database file; its folder has to be there"):
        status.list_statuses(database)
    database.close()


def test_a_folder_that_cannot_be_made_is_an_unreachable_database(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    database = Database(f"sqlite:///{tmp_path / 'file' / 'docmill.db'}")
    with pytest.raises(DatabaseUnreachable, match="cannot use the database"):
        status.list_statuses(database)
    database.close()


def test_making_a_database_connects_to_nothing(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path / 'new' / 'docmill.db'}")
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_nobody_classified_is_one_of_ours_that_names_its_code(database: Database) -> None:
    def twice(transaction: Transaction) -> None:
        for _ in range(2):
            transaction.execute(text("INSERT INTO lease (name, owner, until) VALUES ('a', 'b', 0)"))

    code = "SQLITE_CONSTRAINT_PRIMARYKEY" if database.server is None else "SQLSTATE 23505"
    with pytest.raises(UnexpectedDatabaseError, match=code) as caught:
        database.write(twice)
    assert isinstance(caught.value.__cause__, IntegrityError)


def test_an_error_that_a_trigger_raises_is_told_in_the_triggers_words(postgres_url: str) -> None:
    database = Database(postgres_url, kinds=KINDS)
    refuse_leases(database)
    with pytest.raises(UnexpectedDatabaseError, match=r"RaiseException \(SQLSTATE P0001\): the archive is closed"):
        database.write(lambda transaction: transaction.execute(text("UPDATE lease SET until = 0")))
    database.close()


def refuse_leases(database: Database) -> None:
    """Have PostgreSQL refuse every change of a lease."""
    function = "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'the archive is closed'; END $$"
    trigger = "CREATE TRIGGER refuse BEFORE UPDATE ON lease FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"{function} LANGUAGE plpgsql")
        connection.exec_driver_sql(trigger)


def test_a_value_that_the_database_cannot_store_is_refused_as_that_without_its_text(database: Database) -> None:
    if database.server is None:
        event.listen(database.engine, "connect", _take_little)
    value = "secret " * 1_000 if database.server is None else "secret \0"
    statement = text("INSERT INTO lease (name, owner, until) VALUES (:name, 'b', 0)")
    with pytest.raises(ValueRefused, match="cannot store a value") as caught:
        database.write(lambda transaction: transaction.execute(statement, {"name": value}))
    assert "secret" not in str(caught.value)


def _take_little(connection: Any, _record: Any) -> None:
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000)


def test_an_error_carries_no_documents_text(database: Database) -> None:
    statement = text("INSERT INTO content (id, sha256, text, n_chars) VALUES (1, NULL, :text, 1)")
    with pytest.raises(UnexpectedDatabaseError) as caught:
        database.write(lambda transaction: transaction.execute(statement, {"text": "a secret text"}))
    assert "a secret text" not in str(caught.value)


def test_a_read_sees_one_state_of_the_store(database: Database) -> None:
    read(database, request(), numbered(1))
    count = text("SELECT count(*) FROM document")
    with database.read() as transaction:
        before = transaction.scalar(count)
        read(database, request("b.jsonl"), numbered(5))
        assert transaction.scalar(count) == before == 1


def test_a_connection_that_the_server_cut_is_made_anew(postgres_url: str) -> None:
    database = Database(postgres_url, kinds=KINDS)
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    tries = 0

    def cut_off_once(transaction: Transaction) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            other = Database(postgres_url, kinds=KINDS)
            other.write(lambda transaction: transaction.execute(cut))
            other.close()
        transaction.execute(text("INSERT INTO lease (name, owner, until) VALUES ('a', 'b', 0)"))
        return tries

    assert database.write(cut_off_once) == 2
    database.close()


def test_two_transactions_that_wait_for_each_other_both_come_through(postgres_url: str) -> None:
    # PostgreSQL ends one of them as a deadlock, and it is run again.
    database = Database(postgres_url, kinds=KINDS)
    for name in "ab":
        maintenance.hold(database, name, "w", 60)
    both = Barrier(2)

    def crossed(first: str, second: str) -> None:
        waited = False

        def work(transaction: Transaction) -> None:
            nonlocal waited
            for name in (first, second):
                transaction.execute(text("UPDATE lease SET until = until + 1 WHERE name = :name"), {"name": name})
                if not waited:
                    waited = True
                    both.wait(10)

        database.write(work)

    at_once(lambda: crossed("a", "b"), lambda: crossed("b", "a"))
    database.close()


def test_the_clock_is_the_databases_and_moves_within_a_transaction(database: Database) -> None:
    def clock(transaction: Transaction) -> list[float]:
        return [float(transaction.scalar(select(db_now())) or 0) for _ in range(50)]

    times = database.write(clock)
    assert times == sorted(times)
    assert times[-1] > times[0]
    assert abs(times[-1] - time.time()) < 5


def test_a_statement_with_the_clock_is_compiled_once(database: Database) -> None:
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool) -> None:
        if "WHERE worker.seen_at" in statement:
            found.append(context.cache_hit.name)

    event.listen(database.engine, "before_cursor_execute", note)
    maintenance.forget_workers(database, 10.0)
    maintenance.forget_workers(database, 20.0)
    assert found == ["CACHE_MISS", "CACHE_HIT"]


def test_postgresql_compiles_no_query_that_is_over_sooner(postgres_url: str) -> None:
    database = Database(postgres_url, kinds=KINDS)
    WRITES["dispatch.sign_on"](database)
    with database.read() as transaction:
        transaction.look_up()
        plan = transaction.execute(text("EXPLAIN SELECT id FROM worker WHERE seen_at > 0"))
        assert not [line for (line,) in plan if "JIT" in line]
    database.close()


@pytest.mark.parametrize(
    "error", [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, StorageError)]
)
def test_errors_survive_pickling_and_say_their_docstring(error: type[StorageError]) -> None:
    assert str(pickle.loads(pickle.dumps(error()))) == str(error()) == error.__doc__
    assert str(pickle.loads(pickle.dumps(error("more")))) == "more"


def test_a_folder_that_is_made_for_a_file_is_nobody_elses(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'home' / 'docmill.db'}")
    migrations.upgrade(database)
    database.close()
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0
