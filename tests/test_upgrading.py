"""Claims of docs/upgrading.md: programs newer or older than the schema, and names that will go."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.worker.jobs.errors import UNREACHABLE
from tests.worker.harness import Docmill


@pytest.fixture
def fleet(tmp_path: Path) -> Docmill:
    """Commands on a store that no command upgrades by itself, as a fleet's."""
    url = f"sqlite:///{tmp_path / 'fleet.db'}"
    migrations.upgrade(Database(url))
    return Docmill(tmp_path, {"DOCMILL_DATABASE_URL": url})


def set_revision(fleet: Docmill, revision: str, oldest: str | None = None) -> None:
    with sqlite3.connect(fleet.folder / "fleet.db") as store:
        store.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        if oldest is not None:
            store.execute("UPDATE compatibility SET oldest = ?", (oldest,))


def test_an_older_program_works_with_a_newer_schema_that_names_it_and_leaves_it_as_it_is(fleet: Docmill) -> None:
    set_revision(fleet, "9999")
    fleet("jobs")
    assert fleet.json("db", "upgrade") == {"before": "9999", "after": "9999"}
    set_revision(fleet, "9999", oldest="9999")
    assert "install the newer release" in fleet("jobs", code=UNREACHABLE).stderr
