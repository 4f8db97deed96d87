"""Passwords in URLs: in no output, no log, no error, no file and no table."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base
from tests.faults.fleet import Fleet, numbered
from tests.faults.servers import RedisServer, free_port

CANARY = "c4nary"
SECRET = f"{CANARY}/p@ss:word"  # with every character that has a meaning in a URL
IN_URL = quote(SECRET, safe="")


def run_without_telling(fleet: Fleet, *arguments: Any, code: int = 0, **settings: str) -> None:
    """Run a command with these settings, and assert that it does not print the secret."""
    with fleet.variables(**settings):
        completed = fleet(*arguments, code=code)
    assert CANARY not in completed.stdout + completed.stderr


@pytest.fixture
def fleet(tmp_path: Path, database: Database, own_redis: RedisServer) -> Fleet:
    """A fleet with a password in every URL that can have one."""
    with own_redis.client() as client:
        client.config_set("requirepass", SECRET)
    fleet = Fleet(tmp_path, database, own_redis.url.replace("//", f"//:{IN_URL}@"), log_level="debug")
    if database.server is not None:  # which trusts whoever comes, so that any password does
        fleet.set_database_url(password=SECRET)
    return fleet


def tables(database: Database) -> str:
    return repr([database.rows(select(table)) for table in Base.metadata.sorted_tables])


def files(folder: Path) -> list[str]:
    """Return the files that hold the secret."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_password_is_in_no_output_log_file_or_table(fleet: Fleet) -> None:
    path = fleet.corpus([*numbered(5), ""])
    run_without_telling(fleet, "enqueue", "translate", path, "--model", "null", "--json")
    with fleet.worker():
        fleet.finish(1)
        run_without_telling(fleet, "doctor", "--json")
    for command in ("jobs", "jobs --json", "status 1", "status 1 --wait --json", "results 1", "failures 1 --json"):
        run_without_telling(fleet, *command.split())
    assert CANARY not in fleet.log("worker")
    assert "***" in fleet.log("worker"), "it says which servers it uses"
    assert CANARY not in tables(fleet.database)
    assert files(fleet.folder) == []


def test_a_password_is_in_no_error(fleet: Fleet, own_redis: RedisServer) -> None:
    path = fleet.corpus(numbered(5))
    enqueue = ("enqueue", "translate", path, "--model", "null", "--json")
    wrong = own_redis.url.replace("//", f"//:{IN_URL}-no@")
    run_without_telling(fleet, "worker", code=3, DOCMILL_REDIS_URL=wrong)
    run_without_telling(fleet, *enqueue, DOCMILL_REDIS_URL=wrong)
    own_redis.stop()
    run_without_telling(fleet, "worker", code=3)
    run_without_telling(fleet, "doctor", "--json", code=1)
    run_without_telling(fleet, *enqueue)
    if fleet.database.server is not None:
        url = make_url(fleet.environment["DOCMILL_DATABASE_URL"])
        for away in (url.set(port=free_port()), url.set(database="nowhere")):
            gone = away.render_as_string(hide_password=False)
            run_without_telling(fleet, "jobs", code=3, DOCMILL_DATABASE_URL=gone)
            run_without_telling(fleet, *enqueue, code=3, DOCMILL_DATABASE_URL=gone)
