"""A store has one key however its URL is written, and two stores have two keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.settings import Settings
from worker.stores import key_of


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def key(url: str | None) -> str:
    return key_of(Settings(home=Path("home"), database_url=url))


def test_a_file_is_the_same_store_by_its_relative_and_its_full_path(tmp_path: Path) -> None:
    assert key("sqlite:///home/docmill.db") == key(f"sqlite:///{tmp_path}/home/docmill.db") == key(None)
    assert key("sqlite:///other.db") != key(None)


def test_a_database_of_a_server_is_the_same_store_whoever_asks() -> None:
    one = key("postgresql://ada:secret@localhost/mill")
    for same in (
        "postgresql://bob@127.0.0.1:5432/mill",
        "postgresql:///mill",
        "postgresql://ada@LOCALHOST/mill?sslmode=require",
    ):
        assert key(same) == one
    for other in ("postgresql://localhost/other", "postgresql://db1/mill", "postgresql://localhost:5433/mill"):
        assert key(other) != one
