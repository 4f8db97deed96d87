"""PgBouncer in transaction mode between docmill and PostgreSQL: everything works, and `doctor` names it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from docmill.storage.core.database import Database, describe_pooling
from docmill.storage.core.schema import Shard
from docmill.storage.core.server import Patience
from docmill.storage.core.transaction import Transaction
from docmill.worker import doctor
from docmill.worker.doctor import Diagnosis
from docmill.worker.settings import load_settings
from tests.faults.fleet import SHARD_TEXTS, Fleet, numbered
from tests.faults.servers import PgBouncer, PostgresCluster, open_folder
from tests.kinds import KINDS
from tests.worker.harness import Docmill, kill_group, until

STEPS = """
[[step]]
name = "english"
task = "translate"
model = "null@3000"
[[step]]
name = "meaning"
task = "embed"
model = "null@3000"
"""


def url_past_pooler(url: str, server_port: int) -> str:
    """Return a database's URL without the pooler."""
    return make_url(url).set(drivername="postgresql", port=server_port).render_as_string(hide_password=False)


def url_through(url: str, pooler: PgBouncer) -> str:
    """Return a database's URL through the pooler, without options for sessions, which the pooler refuses."""
    return make_url(url).set(port=pooler.port, query={}).render_as_string(hide_password=False)


@pytest.fixture
def bouncer(own_postgres: PostgresCluster) -> Iterator[PgBouncer]:
    with open_folder() as folder, PgBouncer(folder / "pgbouncer", own_postgres.port) as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path, own_postgres: PostgresCluster, bouncer: PgBouncer, redis_url: str) -> Iterator[Fleet]:
    """A fleet behind the pooler. The test itself goes past it."""
    url = own_postgres.create()
    database = Database(url, pool_size=12, kinds=KINDS)
    fleet = Fleet(tmp_path, database, redis_url)
    fleet.environment["DOCMILL_DATABASE_URL"] = url_through(url, bouncer)
    yield fleet
    database.close()


def test_workers_and_commands_work_behind_a_pgbouncer_that_gives_each_transaction_another_session(
    fleet: Fleet,
) -> None:
    fleet("db", "upgrade")
    n = 20 * SHARD_TEXTS
    first = fleet.enqueue("translate", fleet.corpus(numbered(n)), "--model", "null@3000")
    steps = fleet.folder / "steps.toml"
    source = fleet.corpus(numbered(4 * SHARD_TEXTS), "steps.jsonl")
    steps.write_text(f'name = "steps"\n[corpus]\nsource = "{source}"\n{STEPS}')
    killed = fleet.start_worker()
    until(lambda: fleet.states()["done"] >= 3, "some of it is done")
    kill_group(killed)
    with fleet.worker():
        fleet.finish(first)
        fleet("pipeline", "run", steps)
        assert fleet.json("status", first)["done"] == n
        assert len(fleet.results(first)) == n
        assert fleet.json("doctor", "--workers")["problem"] is None
    assert all(row.state == "done" for row in fleet.shards(Shard.state))
    assert " error=" not in fleet.log("worker"), "nothing was tried again"
    fleet("jobs")
    fleet("failures", first)
    fleet("corpus", "list")
    fleet("corpus", "rm", "steps", "--yes")


def test_doctor_names_the_pooler(fleet: Fleet, own_postgres: PostgresCluster) -> None:
    fleet("db", "upgrade")
    url = fleet.environment["DOCMILL_DATABASE_URL"]

    def diagnose(url: str) -> dict[str, Diagnosis]:
        settings = load_settings(home=fleet.folder / "home", database_url=url)
        return {finding.what: finding for finding in doctor.look_at_database(settings)}

    pooler = diagnose(url)["pooler"]
    assert pooler.ok
    assert "each transaction may get another session" in pooler.detail
    assert "maintenance_work_mem" in pooler.advice
    assert "pooler" not in diagnose(url_past_pooler(url, own_postgres.port))


@pytest.mark.long
def test_a_pooler_of_whole_sessions_is_recognized(own_postgres: PostgresCluster) -> None:
    with (
        open_folder() as folder,
        PgBouncer(folder / "pgbouncer", own_postgres.port, pool_mode="session") as server,
        closing(Database(url_through(own_postgres.create(), server), kinds=KINDS)) as database,
    ):
        assert describe_pooling(database) == "a connection keeps its session of the server"


def test_a_slow_statement_behind_a_pooler_is_probed_and_left_alone(
    own_postgres: PostgresCluster, bouncer: PgBouncer
) -> None:
    url = own_postgres.create()
    database = Database(url_through(url, bouncer), patience=Patience(answer_s=0.5), kinds=KINDS)
    database.write(lambda transaction: transaction.exec_driver_sql("CREATE TABLE wanted (n int)"))
    tries: list[int] = []

    def work(transaction: Transaction) -> None:
        tries.append(1)
        transaction.exec_driver_sql("LOCK TABLE wanted")

    def logins() -> int:
        return (bouncer.folder / "server.log").read_text().count("login attempt")

    with psycopg.connect(url) as beside:
        beside.execute("LOCK TABLE wanted")
        waiting = threading.Thread(target=partial(database.write, work))
        waiting.start()
        n_logins = logins()
        until(lambda: logins() >= n_logins + 4, "the server is asked again and again")
    waiting.join(60)
    assert not waiting.is_alive()
    assert tries == [1]
    database.close()


@pytest.mark.long
def test_an_index_of_vectors_is_made_and_used_behind_a_pgbouncer(tmp_path: Path, pgvector_url: str) -> None:
    port = make_url(pgvector_url).port
    assert port is not None
    with open_folder() as folder, PgBouncer(folder / "pgbouncer", port) as server:
        docmill = Docmill(tmp_path, {"DOCMILL_DATABASE_URL": url_through(pgvector_url, server)})
        (tmp_path / "corpus.jsonl").write_text("".join(f'{{"id": "k{i}", "text": "text {i}"}}\n' for i in range(40)))
        docmill("run", "embed", "corpus.jsonl", "--model", "null", "--corpus", "books")
        assert docmill.json("index", "add", "books") == {"spec": 1, "added": 40}
        assert docmill.json("search", "books", "text 7")["hits"][0]["id"] == "k7"
        with psycopg.connect(url_past_pooler(pgvector_url, port)) as beside:
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert beside.execute(locks).fetchone() == (0,), "no session was left with a lock"
        for _ in range(6):  # each session of the pooler in turn
            with psycopg.connect(url_through(pgvector_url, server).replace("+psycopg", "")) as connection:
                assert connection.execute("SHOW plan_cache_mode").fetchone() == ("auto",), "nothing was left set"
