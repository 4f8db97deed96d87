"""Passwords in URLs: in no output, no log, no error, no file and no table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url

from docmill.storage.core.database import Database
from docmill.storage.core.schema import Base
from docmill.storage.errors import StorageError
from docmill.worker.errors import SettingsError
from docmill.worker.settings import load_settings
from docmill.worker.stores import store_of
from tests.faults.fleet import Fleet, numbered
from tests.faults.servers import RedisServer, free_port
from tests.worker.harness import Docmill

CANARY = "c4nary"
SECRET = f"{CANARY}/p@ss:word"  # with every character that has a meaning in a URL
IN_URL = quote(SECRET, safe="")


class Said:
    """Runs commands, and keeps all that they said."""

    def __init__(self, docmill: Docmill) -> None:
        self._docmill = docmill
        self.all: list[tuple[str, str]] = []

    def __call__(self, *arguments: Any, code: int = 0, settings: Mapping[str, str] | None = None) -> None:
        before = dict(self._docmill.environment)
        self._docmill.environment |= settings or {}
        done = self._docmill(*arguments, code=code)
        self._docmill.environment = before
        self.all.append((" ".join(map(str, arguments)), done.stdout + done.stderr))

    def told(self) -> list[str]:
        """The commands that told the secret."""
        return [command for command, said in self.all if CANARY in said]


@pytest.fixture
def fleet(tmp_path: Path, database: Database, own_redis: RedisServer) -> Fleet:
    """docmill with a password in every URL that can have one."""
    with own_redis.client() as client:
        client.config_set("requirepass", SECRET)
    fleet = Fleet(tmp_path, database, own_redis.url.replace("//", f"//:{IN_URL}@"), log_level="debug")
    if database.server is not None:  # which trusts whoever comes, so that any password does
        url = database.url.set(password=SECRET)
        fleet.environment["DOCMILL_DATABASE_URL"] = url.render_as_string(hide_password=False)
    return fleet


def tables(database: Database) -> str:
    with database.read() as transaction:
        return repr([transaction.execute(select(table)).all() for table in Base.metadata.sorted_tables])


def files(folder: Path) -> list[str]:
    """The files that hold the secret."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_password_is_in_no_output_log_file_or_table(fleet: Fleet) -> None:
    said = Said(fleet)
    path = fleet.corpus([*numbered(5), ""])
    said("enqueue", "translate", path, "--model", "null", "--json")
    with fleet.worker():
        fleet.finish(1)
        said("doctor", "--json")
    said("jobs")
    said("jobs", "--json")
    said("status", 1)
    said("status", 1, "--json")
    said("status", 1, "--wait", "--json")
    said("results", 1)
    said("failures", 1, "--json")
    assert said.told() == []
    assert CANARY not in fleet.log("worker")
    assert "***" in fleet.log("worker"), "it says which servers it uses"
    assert CANARY not in tables(fleet.database)
    assert files(fleet.folder) == []


def test_a_password_is_in_no_error(fleet: Fleet, own_redis: RedisServer) -> None:
    said = Said(fleet)
    path = fleet.corpus(numbered(5))
    enqueue = ("enqueue", "translate", path, "--model", "null", "--json")
    wrong = {"DOCMILL_REDIS_URL": own_redis.url.replace("//", f"//:{IN_URL}-no@")}
    said("worker", code=3, settings=wrong)
    said(*enqueue, settings=wrong)
    own_redis.stop()
    said("worker", code=3)
    said("doctor", "--json", code=1)
    said(*enqueue)
    if fleet.database.server is not None:
        url = make_url(fleet.environment["DOCMILL_DATABASE_URL"])
        for away in (url.set(port=free_port()), url.set(database="nowhere")):
            gone = {"DOCMILL_DATABASE_URL": away.render_as_string(hide_password=False)}
            said("jobs", code=3, settings=gone)
            said(*enqueue, code=3, settings=gone)
    assert said.told() == []


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("database_url", f"postgresql://me:{SECRET}@host/name"),
        ("database_url", f"postgresql//me:{CANARY}@host/name"),
        ("redis_url", f"http://:{IN_URL}@host"),
        ("redis_url", f"redis://:{SECRET}@host:6379/0"),
        ("redis_url", f"redis://:{CANARY}@host:port/0"),
        ("redis_url", f"redis//:{CANARY}@host/0"),
    ],
)
def test_a_url_that_is_none_does_not_give_its_password_away(name: str, url: str) -> None:
    with pytest.raises((SettingsError, StorageError)) as refused:
        store_of(load_settings(**{name: url}))
    assert CANARY not in str(refused.value)
