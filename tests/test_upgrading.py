"""Claims of docs/upgrading.md: programs newer or older than the schema, and names that will go."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.worker.jobs.errors import UNREACHABLE
from tests.worker.harness import ROOT, Docmill

PAGE = (ROOT / "docs" / "upgrading.md").read_text()


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


def test_a_new_program_on_a_database_without_its_schema_names_the_migration(fleet: Docmill) -> None:
    assert f"ends with exit code {UNREACHABLE} and names `docmill db upgrade`" in PAGE
    with sqlite3.connect(fleet.folder / "fleet.db") as store:
        store.execute("DROP TABLE alembic_version")
    for command in (("jobs",), ("worker", "--device", "cpu")):
        assert "run `docmill db upgrade`" in fleet(*command, code=UNREACHABLE).stderr


def test_a_store_of_a_docmill_before_the_first_release_gets_one_sentence(fleet: Docmill) -> None:
    set_revision(fleet, "0037")
    with sqlite3.connect(fleet.folder / "fleet.db") as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (fleet.folder / "fleet.db").read_bytes()
    said = fleet("db", "upgrade", code=UNREACHABLE).stderr
    assert "was made by a docmill before its first release (revision 0037)" in said
    assert "then start a new store: set DOCMILL_DATABASE_URL or DOCMILL_HOME to another" in said
    home = fleet.folder / "home"
    home.mkdir(exist_ok=True)
    (home / "docmill.db").write_bytes(before)
    del fleet.environment["DOCMILL_DATABASE_URL"]
    assert "before its first release (revision 0037)" in fleet("jobs", code=UNREACHABLE).stderr
    assert (home / "docmill.db").read_bytes() == before


def test_an_older_program_works_with_a_newer_schema_that_names_it_and_leaves_it_as_it_is(fleet: Docmill) -> None:
    set_revision(fleet, "9999")
    fleet("jobs")
    assert fleet.json("db", "upgrade") == {"before": "9999", "after": "9999"}
    set_revision(fleet, "9999", oldest="9999")
    assert "install the newer release" in fleet("jobs", code=UNREACHABLE).stderr
