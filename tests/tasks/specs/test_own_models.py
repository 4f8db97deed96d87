"""The quick start's models are copied from an archive, a folder or a URL, and checked by their hashes."""

from __future__ import annotations

import shutil
import zipfile
from email.message import Message
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from docmill.tasks.errors import HubUnreachable, ModelCorrupt, ModelNotFound
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.pinning import OWN, copy_own_models
from docmill.worker.settings import load_settings
from release import models
from tests.tasks.http_server import http_server
from tests.worker.harness import ROOT


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(ROOT, tmp_path_factory.mktemp("dist"), "1.2.0")


def test_models_copied_from_an_archive_or_a_url_have_their_names_and_revisions(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned_before = {name: pinning.pin_with_adapter(name, None, ModelFolders(None, tmp_path))[0] for name in OWN}
    monkeypatch.setattr(
        pinning,
        "ALIASES",
        {name: f"{tmp_path}/{name}" if name in OWN else at for name, at in pinning.ALIASES.items()},
    )
    with pytest.raises(ModelNotFound, match="docmill models get quickstart"):
        pinning.pin("marian-ddtp", ModelFolders(None, tmp_path))
    models_dir = tmp_path / "home" / "models"
    assert copy_own_models(str(archive), models_dir, tmp_path) == [*OWN]
    settings = load_settings(home=tmp_path / "home")
    assert settings.models_dir == models_dir
    for name in OWN:
        pinned, _ = pinning.pin_with_adapter(name, None, ModelFolders(models_dir, tmp_path))
        assert pinned == pinned_before[name]
    with http_server(partial(SimpleHTTPRequestHandler, directory=str(archive.parent))) as url:
        assert copy_own_models(f"{url}/{archive.name}", models_dir, tmp_path) == [*OWN]
        with pytest.raises(HubUnreachable, match=r"nothing\.zip cannot be read"):
            copy_own_models(f"{url}/nothing.zip", models_dir, tmp_path)
    assert {path.name for path in models_dir.iterdir()} == {*OWN}


def test_files_of_another_release_and_other_files_are_refused_and_nothing_is_replaced(tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(ROOT / "examples" / "models", changed)
    (changed / "marian-ddtp" / "config.json").write_text("{}")
    with pytest.raises(ModelCorrupt, match=r"The files of marian-ddtp in .* are not those of this release"):
        copy_own_models(str(changed), tmp_path / "models", tmp_path)
    (changed / "file.zip").write_text("no archive")
    with zipfile.ZipFile(changed / "damaged.zip", "w") as archive:
        archive.writestr("config.json", "whole")
    (changed / "damaged.zip").write_bytes((changed / "damaged.zip").read_bytes().replace(b"whole", b"other"))
    for name in ("file.zip", "damaged.zip"):
        with pytest.raises(ModelCorrupt, match="it is not a whole zip file"):
            copy_own_models(str(changed / name), tmp_path / "models", tmp_path)
    with pytest.raises(ModelNotFound, match="is no folder or archive with docmill's models"):
        copy_own_models(str(tmp_path / "nowhere"), tmp_path / "models", tmp_path)
    assert [*(tmp_path / "models").iterdir()] == []


def test_without_the_projects_address_the_archive_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = Message()
    about["Version"], about["Project-URL"] = "1.2.0", "Homepage, https://example.org/docmill"
    monkeypatch.setattr(pinning, "metadata", lambda _: about)
    assert pinning._release_url() == (
        "https://example.org/docmill/releases/download/v1.2.0/docmill-1.2.0-quickstart.zip"
    )
    del about["Project-URL"]
    with pytest.raises(ModelNotFound, match="--from"):
        copy_own_models(None, tmp_path, tmp_path)
