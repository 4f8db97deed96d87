"""Docmills of every kind: embedded, or a fleet's on each store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.database import Database
from tests.worker.harness import Docmill

QUICK = {"DOCMILL_LEASE_S": "3", "DOCMILL_UPKEEP_S": "0.5"}


@pytest.fixture
def embedded(tmp_path: Path) -> Docmill:
    """No server: SQLite in the home, a queue of the command's own."""
    return Docmill(tmp_path, {})


@pytest.fixture
def fleet(tmp_path: Path, database: Database, redis_url: str) -> Docmill:
    """A store (once for each kind) and a Redis, with short leases."""
    url = database.url.render_as_string(hide_password=False)
    return Docmill(tmp_path, {**QUICK, "DOCMILL_DATABASE_URL": url, "DOCMILL_REDIS_URL": redis_url})


@pytest.fixture
def write_corpus(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as JSON lines; the file's path."""

    def write(records: Iterable[dict[str, Any]], name: str = "corpus.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write
