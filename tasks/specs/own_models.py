"""Docmill's own small models as files: each release has an archive of them, the source tree examples/models."""

from __future__ import annotations

import shutil
import urllib.request
import zipfile
from importlib.metadata import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError

from docmill.tasks.errors import HubUnreachable, ModelCorrupt, ModelNotFound
from docmill.tasks.models import weights
from docmill.tasks.models.adapters import FILES as ADAPTER_FILES
from docmill.tasks.specs.pinning import ADAPTED, ALIASES, SHIPPED, SHIPPED_FOLDER

OWN = (*(name for name, place in ALIASES.items() if Path(place).parent == SHIPPED_FOLDER), *ADAPTED)
_SILENCE_S = 30.0


def archive_name(version: str) -> str:
    """Return the name of the archive among the files of a release."""
    return f"docmill-{version}-quickstart.zip"


def copy_own_models(source: str | None, models_dir: Path, cache_dir: Path) -> list[str]:
    """Copy the models into the models directory from a folder, an archive or its URL, and return their names.

    None is the archive of this release at the project's address. Raises ModelNotFound, HubUnreachable, and
    ModelCorrupt for other files than this release knows.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=models_dir, prefix=".get-") as name:
        new = Path(name)
        source = source or _release_url()
        origin = Path(source).expanduser()
        if source.startswith(("https://", "http://")):
            origin = new / "archive.zip"
            _download(source, origin)
        if origin.is_file():
            origin = _extract(origin, new / "extracted", source)
        for model in OWN:
            folder = origin / model
            if not folder.is_dir():
                raise ModelNotFound(f"{source} is no folder or archive with docmill's models: it has no {model}.")
            files = ADAPTER_FILES if model in ADAPTED else weights.folder_files(folder)
            if weights.hash_of(folder, files, cache_dir) not in SHIPPED:
                raise ModelCorrupt(f"The files of {model} in {source} are not those of this release of docmill.")
            shutil.copytree(folder, new / "whole" / model)
        for model in OWN:
            shutil.rmtree(models_dir / model, ignore_errors=True)
            (new / "whole" / model).rename(models_dir / model)
    return [*OWN]


def _release_url() -> str:
    about = metadata("docmill")
    urls = dict(url.split(", ", 1) for url in about.get_all("Project-URL") or ())
    if "Homepage" not in urls:
        raise ModelNotFound(
            "This docmill was built without the project's address: name a release's archive of models, "
            f"{archive_name('VERSION')}, or the folder examples/models of the source tree with --from."
        )
    return f"{urls['Homepage']}/releases/download/v{about['Version']}/{archive_name(about['Version'])}"


def _download(url: str, file: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=_SILENCE_S) as answer, file.open("wb") as target:  # noqa: S310
            shutil.copyfileobj(answer, target)
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise HubUnreachable(
            f"{url} cannot be read ({reason}): name another URL, a file or a folder with --from."
        ) from error


def _extract(file: Path, folder: Path, source: str) -> Path:
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
    except zipfile.BadZipFile as error:
        raise ModelCorrupt(f"{source} is no archive of models: it is not a zip file.") from error
    return folder
