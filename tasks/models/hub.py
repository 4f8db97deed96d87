"""The model hub, through its own client and its own cache. Nothing of it is imported before it is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.core.private_files import make_folder
from tasks.errors import HubUnreachable, ModelCorrupt, ModelError, ModelNotFound
from tasks.models.weights import ADAPTER, adapter_of, files_that_matter, has_weights

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 20.0
_OFFLINE_ADVICE = (
    "Connect this machine to the hub, or copy the model's folder here and name the folder, or put it into the "
    "models directory; `docmill models list` has the models that need no hub."
)


def commit_of(model: str, revision: str | None, cache_dir: Path) -> str:
    """The commit (40 hex digits) that a hub id's revision (``main`` without one) stands for.

    A commit is taken as it is. Where the hub does not answer, it is what we, or the client's cache, last saw
    under that name: downloads by commit leave no name in that cache, so we keep our own note.
    Raises ModelNotFound, HubUnreachable.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    note = cache_dir / "commits" / _file_name(model, revision or "main")
    try:
        with _told(model):
            found = str(HfApi().model_info(model, revision=revision, timeout=_TIMEOUT_S).sha)
    except HubUnreachable:
        cached = _commit_in(note) or _cached_commit(model, revision or "main")
        if cached is None:
            raise
        return cached
    _write(note, found)
    return found


def small_file(model: str, commit: str, name: str) -> bytes | None:
    """Return a file of the model at a commit, or None where it has none of this name or the hub does not answer."""
    from huggingface_hub import hf_hub_download

    try:
        with _told(model):
            return Path(hf_hub_download(model, name, revision=commit)).read_bytes()
    except ModelError:
        return None


def snapshot(model: str, commit: str, cache_dir: Path) -> Path:
    """The folder with the model's files at exactly this commit, downloaded if need be.

    A note in ``cache_dir`` says which downloads were complete, so that a second worker, or the same one
    offline, does not ask the hub again. Raises ModelNotFound, ModelCorrupt, HubUnreachable.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    if (known := downloaded(model, commit, cache_dir)) is not None:
        return known
    with _told(model):
        names = HfApi().list_repo_files(model, revision=commit)
        if ADAPTER in names and "config.json" not in names:
            config = Path(hf_hub_download(model, ADAPTER, revision=commit)).read_bytes()
            raise ModelNotFound(adapter_of(model, config))
        wanted = files_that_matter(names)
        if not has_weights(wanted):
            raise ModelNotFound(f"{model} on the hub has neither safetensors nor .bin weights.")
        folder = Path(snapshot_download(model, revision=commit, allow_patterns=wanted))
    if not _complete(folder):
        raise ModelCorrupt(f"The download of {model} is not complete; delete {folder} and try again.")
    _write(cache_dir / "snapshots" / _file_name(model, commit), str(folder))
    return folder


def downloaded(model: str, commit: str, cache_dir: Path) -> Path | None:
    """The folder of an earlier ``snapshot`` that is still whole, or None."""
    note = cache_dir / "snapshots" / _file_name(model, commit)
    folder = Path(note.read_text()) if note.is_file() else None
    return folder if folder is not None and _complete(folder) else None


def _complete(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return has_weights(names)


def _cached_commit(model: str, name: str) -> str | None:
    from huggingface_hub import constants

    return _commit_in(Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}" / "refs" / name)


def _commit_in(note: Path) -> str | None:
    try:
        commit = note.read_text().strip()
    except OSError:
        return None
    return commit if COMMIT.fullmatch(commit) else None


def _file_name(model: str, revision: str) -> str:
    return f"{model}@{revision}".replace("/", "--")


def _write(note: Path, text: str) -> None:
    """Write a small file whole, whoever else writes it now."""
    make_folder(note.parent)
    partial = note.with_name(f"{note.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(note)


def _away(model: str) -> str:
    """Return why a model's files cannot be fetched, and what to do."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        kept = f"{model} is not in this machine's cache of the hub, and HF_HUB_OFFLINE is set: unset it."
        return f"{kept} {_OFFLINE_ADVICE}"
    return f"The hub does not answer for {model}. {_OFFLINE_ADVICE}"


@contextmanager
def _told(model: str) -> Iterator[None]:
    """Wrap the hub client's errors in ours."""
    from huggingface_hub import errors

    # The client's HTTP library has changed its name twice; its root error is always imported there.
    http_error: type[Exception] = getattr(errors, "HTTPError", OSError)
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelNotFound(
            f"{model} is gated: accept its terms on the hub, and log in there with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"{model} has no such revision on the hub.") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError, errors.EntryNotFoundError) as error:
        # A file that is not in the cache, with a hub that does not answer, is an EntryNotFoundError too.
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise HubUnreachable(_away(model)) from error
        raise ModelNotFound(
            f"{model} is no folder here and no public model on the hub: check the name (`docmill models list` "
            "has those that need no hub), or log in with `hf auth login` if it is private."
        ) from error
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, http_error, OSError) as error:
        raise HubUnreachable(_away(model)) from error
