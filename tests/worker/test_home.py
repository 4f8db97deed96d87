"""Only its user can read a home, whatever command made it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from docmill.storage.migrations import upgrade
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.worker.doctor import look_at_rights
from docmill.worker.settings import load_settings
from docmill.worker.submit.rehearsal import require_possible
from tests.worker.harness import Docmill

PARAMS = {"source_lang": "fr", "target_lang": "en", "window_tokens": 100}


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The umask of a user who hides nothing."""
    old_umask = os.umask(0)
    yield
    os.umask(old_umask)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def home_of(docmill: Docmill) -> Path:
    return Path(docmill.environment["DOCMILL_HOME"])


def test_models_check_makes_a_home_for_its_user_alone(tmp_path: Path) -> None:
    docmill = Docmill(tmp_path, {"DOCMILL_HOME": str(tmp_path / "new" / "home")})
    docmill("models", "check", "marian-ddtp")
    folders = [home_of(docmill), *(path for path in home_of(docmill).rglob("*") if path.is_dir())]
    assert (home_of(docmill) / "cache").is_dir()
    assert {mode(path) for path in folders} == {0o700}


def test_a_rehearsal_is_noted_in_a_folder_for_its_user_alone(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home")
    pinned = pinning.pin("marian-ddtp", ModelFolders(None, tmp_path / "elsewhere"))
    require_possible(settings, [Spec("translate", pinned.model, pinned.revision, params=PARAMS)])
    folders = [settings.home, *(path for path in settings.home.rglob("*") if path.is_dir())]
    assert settings.cache_dir / "rehearsed" in folders
    assert {mode(path) for path in folders} == {0o700}


def test_a_store_and_its_journals_are_read_by_their_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "docmill.db"
    database = Database(f"sqlite:///{file}")
    upgrade(database)
    with database.read():
        modes = {path.name: mode(path) for path in file.parent.iterdir()}
    database.close()
    assert modes == {"docmill.db": 0o600, "docmill.db-wal": 0o600, "docmill.db-shm": 0o600}
    assert mode(file.parent) == 0o700


def test_doctor_names_a_store_elsewhere_that_others_can_read(tmp_path: Path) -> None:
    file = tmp_path / "a b.db"
    file.touch(0o644)
    settings = load_settings(home=tmp_path / "home", database_url=f"sqlite:///{file}")
    [finding] = look_at_rights(settings)
    assert finding.detail == f"other users of this machine can read {file}"
    assert finding.advice == f"to prevent that: chmod 600 '{file}'"
    file.chmod(0o600)
    assert list(look_at_rights(settings)) == []


def test_reading_the_settings_makes_no_home(tmp_path: Path) -> None:
    load_settings(home=tmp_path / "home")
    assert not (tmp_path / "home").exists()
