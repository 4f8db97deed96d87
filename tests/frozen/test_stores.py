"""Stores of an earlier release, upgraded and used: everything in them stays, and nothing is computed twice.

`make` wrote the stores at d5aa8a2, in whose tree it was run; `story` has the commands that filled them.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text

from tests.frozen import story
from tests.frozen.observation import lacking, observed
from tests.frozen.story import DONE, HALF_DONE, INTERRUPTED, Ran
from tests.postgres import PostgresServer
from tests.worker.harness import Docmill

HERE = Path(__file__).parent
QUICK = {"DOCMILL_LEASE_S": "3", "DOCMILL_UPKEEP_S": "0.5"}


STORES = ("sqlite", "postgresql")


@pytest.fixture(params=STORES)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Docmill]:
    """docmill with a store of that release, not upgraded yet, beside the sources that it was made of."""
    shutil.copytree(HERE / "sources", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("before"))
    if request.param == "sqlite":
        yield Docmill(tmp_path, {**QUICK, "DOCMILL_DATABASE_URL": _sqlite_store(tmp_path)})
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create()
    _restore(server.url(name), tmp_path)
    yield Docmill(tmp_path, {**QUICK, "DOCMILL_DATABASE_URL": server.url(name)})
    server.drop(name)


@pytest.fixture
def upgraded(old: Docmill) -> Docmill:
    old("db", "upgrade")
    return old


@pytest.fixture
def expected(request: pytest.FixtureRequest, upgraded: Docmill) -> Any:
    """Return the store as users saw it before it was upgraded."""
    kind = "sqlite" if upgraded.environment["DOCMILL_DATABASE_URL"].startswith("sqlite") else "postgresql"
    return json.loads((HERE / "stores" / f"{kind}.json").read_text(encoding="utf-8"))


def test_an_upgrade_keeps_everything_that_users_see(upgraded: Docmill, expected: Any) -> None:
    found = json.loads(json.dumps(observed(upgraded)).replace(str(upgraded.folder), story.FOLDER))
    assert lacking(expected, found) == []


@pytest.mark.parametrize(
    ("old", "ran"),
    [
        pytest.param(store, ran, id=f"{store}-{ran.arguments}", marks=[] if n % 2 == of_store else pytest.mark.long)
        for n, ran in enumerate(DONE)
        for of_store, store in enumerate(STORES)
    ],
    indirect=["old"],
)
def test_a_command_whose_job_was_done_computes_nothing_when_it_is_given_again(upgraded: Docmill, ran: Ran) -> None:
    before = _outcomes(upgraded)
    done = upgraded(*ran.arguments.split(), code=ran.code)
    assert _outcomes(upgraded) == before
    again = upgraded.json("jobs", "--limit", 1)[0]
    assert (again["state"], again["pending"], again["computed"]) == ("done", 0, 0.0), again
    assert again["prior"] == again["texts"], done.stderr


@pytest.mark.long_on("sqlite")
def test_a_job_whose_worker_was_killed_is_carried_on_and_what_was_done_stays(upgraded: Docmill) -> None:
    job = _unfinished(upgraded, "many")
    before = _outcomes(upgraded)
    assert 0 < job["done"] < 320
    upgraded("run", *HALF_DONE.split())
    after = upgraded.json("status", job["id"])
    assert (after["state"], after["done"], after["failed"], after["shards"]) == ("done", 320, 0, {"done": 5})
    found = _outcomes(upgraded)
    assert set(before) <= set(found), "what was done is not touched"
    assert len(found) == len(before) + 320 - job["done"]
    assert [row["text"] for row in upgraded.results(job["id"])] == [f"Line {i} of many." for i in range(320)]


def test_a_source_whose_reading_was_cut_off_is_read_into_the_same_job(upgraded: Docmill) -> None:
    job = _unfinished(upgraded, "more")
    assert (job["state"], job["texts"]) == ("ingesting", 256)
    upgraded("run", *INTERRUPTED.split())
    after = upgraded.json("status", job["id"])
    assert (after["state"], after["documents"], after["done"], after["failed"]) == ("done", 400, 400, 0)


def test_a_job_that_was_paused_goes_on(upgraded: Docmill) -> None:
    job = _unfinished(upgraded, "paused")
    upgraded("resume", job["id"])
    upgraded(*story.PAUSED.replace("enqueue", "run").replace(" --priority 5", "").split())
    after = upgraded.json("status", job["id"])
    assert (after["state"], after["done"]) == ("done", 4)


def _unfinished(docmill: Docmill, corpus: str) -> Any:
    [job] = [job for job in docmill.json("jobs", "--limit", 100) if job["corpus"] == corpus]
    assert job["finished_at"] is None
    return job


def _outcomes(docmill: Docmill) -> list[str]:
    """Every outcome in the store."""
    engine = create_engine(docmill.environment["DOCMILL_DATABASE_URL"])
    try:
        with engine.connect() as connection:
            return sorted(str(row) for row in connection.execute(text("SELECT * FROM outcome")))
    finally:
        engine.dispose()


def _sqlite_store(folder: Path) -> str:
    """The URL of the SQLite store, put into a folder whose sources it names from now on."""
    path = folder / "docmill.db"
    path.write_bytes(gzip.decompress((HERE / "stores" / "sqlite.db.gz").read_bytes()))
    with closing(sqlite3.connect(path)) as connection:
        columns = (
            "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c "
            "WHERE m.type = 'table' AND c.type IN ('TEXT', 'JSON')"
        )
        for table, column in connection.execute(columns).fetchall():
            moved = f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)'
            connection.execute(moved, (story.FOLDER, str(folder), story.FOLDER))
        connection.commit()
    return f"sqlite:///{path}"


def _restore(url: str, folder: Path) -> None:
    """Put the PostgreSQL store into an empty database, and have it name the sources in a folder."""
    dump = gzip.decompress((HERE / "stores" / "postgresql.sql.gz").read_bytes()).decode()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(dump.replace(story.FOLDER, str(folder)).encode())
