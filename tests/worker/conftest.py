"""Fixtures for commands: with an embedded store, on a fleet, or within the test's process."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from docmill.storage.core.database import Database
from docmill.worker.cli import main
from docmill.worker.queue.broker import Broker
from docmill.worker.settings import Settings, load_settings
from tests.kinds import KINDS
from tests.tasks.backends.remote.api_server import ApiServer
from tests.worker.harness import Docmill

QUICK = {"DOCMILL_LEASE_S": "3", "DOCMILL_UPKEEP_S": "0.5"}


@pytest.fixture
def embedded(tmp_path: Path) -> Docmill:
    """A docmill without servers: SQLite in the home, an embedded queue."""
    return Docmill(tmp_path, {})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    """The store of `embedded` and `call`. A command has to make it first."""
    with closing(Database(f"sqlite:///{tmp_path}/home/docmill.db", kinds=KINDS)) as database:
        yield database


@pytest.fixture
def fleet(tmp_path: Path, database_url: str, redis_url: str) -> Docmill:
    """A docmill on each kind of store and a Redis, with short leases."""
    return Docmill(tmp_path, {**QUICK, "DOCMILL_DATABASE_URL": database_url, "DOCMILL_REDIS_URL": redis_url})


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    with closing(Broker(redis_url)) as broker:
        yield broker


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A server of models with OpenAI's API."""
    with ApiServer().running() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home")


@pytest.fixture
def write_corpus(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes records as JSON lines, and returns the file's path."""

    def write(records: Iterable[dict[str, Any]], name: str = "corpus.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write


class Output(NamedTuple):
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class _Keyboard(io.BytesIO):
    def isatty(self) -> bool:
        return True


Call = Callable[..., Output]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """A function that runs a command in this process. Its exit code must be `code`."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: Any, code: int = 0, stdin: bytes = b"", keyboard: bool = False) -> Output:
        monkeypatch.setattr(sys, "argv", ["docmill", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper((_Keyboard if keyboard else io.BytesIO)(stdin)))
        with pytest.raises(SystemExit) as raised:
            main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        output = Output(*capsys.readouterr())
        assert raised.value.code == code, output
        return output

    return run
