"""The model hub, through its own client and cache. The client is imported when it is needed."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from docmill.storage.core.private_files import write_note
from docmill.tasks.errors import HubUnreachable, ModelCorrupt, ModelError, ModelNotFound
from docmill.tasks.models.weights import ADAPTER_CONFIG, adapter_of, files_that_matter, has_weights

# A function that chooses the files to download, given a model, its commit, and the names of all its files.
Choose: TypeAlias = Callable[[str, str, Sequence[str]], Sequence[str]]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
# For the connection, and for each answer.
_TIMEOUT_S = 8.0
# After no answer, the hub is not asked again for this long: a command asks it many things.
_AWAY_S = 10.0
_SERVER_ERROR = 500
_OFFLINE_ADVICE = (
    "Connect this machine to the hub, or copy the model's folder here and name the folder, or put it into the "
    "models directory; `docmill models list` has the models that need no hub."
)


def _client() -> Any:
    """Return the hub's client. It reads the environment when it is imported."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, in a notebook without its widgets
        import huggingface_hub.file_download  # imports huggingface_hub's constants, errors and utils, too

    return huggingface_hub


def commit_of(model: str, revision: str | None, cache_dir: Path) -> str:
    """Return the commit (40 hex digits) of a hub id's revision (default: ``main``). A commit is returned unchanged.

    If the hub does not answer, return the last known commit from docmill's note, or from the client's cache. The note
    is needed since downloads by commit leave no name in that cache. Raises ModelNotFound, HubUnreachable.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    note = cache_dir / "commits" / _file_name(model, revision or "main")
    try:
        with _asking_hub(model):
            commit = str(_client().HfApi().model_info(model, revision=revision, timeout=_TIMEOUT_S).sha)
    except HubUnreachable:
        of_client = f"models--{model.replace('/', '--')}/refs/{revision or 'main'}"
        cached = _commit_in(note) or _commit_in(Path(_client().constants.HF_HUB_CACHE, of_client))
        if cached is None:
            raise
        return cached
    write_note(note, commit)
    return commit


def small_file(model: str, commit: str, name: str) -> bytes | None:
    """Return a file of the model at a commit; None if there is no such file, or the hub does not answer."""
    try:
        with _wrapping_errors(model):
            cached = _client().try_to_load_from_cache(model, name, revision=commit)
        if isinstance(cached, str):
            return Path(cached).read_bytes()
        with _asking_hub(model):  # a quick request first, since a download tries a silent hub for minutes
            _client().get_hf_file_metadata(_client().hf_hub_url(model, name, revision=commit), timeout=_TIMEOUT_S)
            return Path(_client().hf_hub_download(model, name, revision=commit)).read_bytes()
    except ModelError:
        return None


def snapshot(model: str, commit: str, notes: Path, choose: Choose) -> Path:
    """Return the folder with the chosen files of the model at this commit. Download them if necessary.

    Notes in the folder ``notes`` list complete downloads, so that later workers do not ask the hub again. Raises
    ModelNotFound, ModelCorrupt, HubUnreachable.
    """
    if (known := downloaded(model, commit, notes)) is not None:
        return known
    with _asking_hub(model):
        info = _client().HfApi().model_info(model, revision=commit, timeout=_TIMEOUT_S)
    wanted = choose(model, commit, [file.rfilename for file in info.siblings or ()])
    with _wrapping_errors(model):
        folder = Path(_client().snapshot_download(model, revision=commit, allow_patterns=[*wanted]))
    if not all((folder / name).is_file() for name in wanted):
        raise ModelCorrupt(f"The download of {model} is not complete; delete {folder} and try again.")
    write_note(notes / _file_name(model, commit), "\n".join([str(folder), *wanted]))
    return folder


def choose_model_files(model: str, commit: str, names: Sequence[str]) -> Sequence[str]:
    """Return the files of a whole model among its files on the hub. Raises ModelNotFound if some are missing."""
    if ADAPTER_CONFIG in names and "config.json" not in names:
        raise ModelNotFound(adapter_of(model, small_file(model, commit, ADAPTER_CONFIG) or b"{}"))
    wanted = files_that_matter(names)
    if not has_weights(wanted):
        raise ModelNotFound(f"{model} on the hub has neither safetensors nor .bin weights.")
    return wanted


def downloaded(model: str, commit: str, notes: Path) -> Path | None:
    """Return the folder of an earlier ``snapshot`` if it still has its files, else None."""
    note = notes / _file_name(model, commit)
    if not note.is_file():
        return None
    folder, *names = note.read_text().split("\n")
    return Path(folder) if names and all((Path(folder) / name).is_file() for name in names) else None


def _commit_in(note: Path) -> str | None:
    try:
        commit = note.read_text().strip()
    except OSError:
        return None
    return commit if COMMIT.fullmatch(commit) else None


def _file_name(model: str, revision: str) -> str:
    return f"{model}@{revision}".replace("/", "--")


def _describe_absence(model: str) -> str:
    """Return why a model's files cannot be fetched, and what to do."""
    if _client().constants.HF_HUB_OFFLINE:
        kept = f"{model} is not in this machine's cache of the hub, and HF_HUB_OFFLINE is set: unset it."
        return f"{kept} {_OFFLINE_ADVICE}"
    return f"The hub does not answer for {model}. {_OFFLINE_ADVICE}"


# The hub is not asked again before this time of the monotonic clock.
_silent_until = 0.0


def _note_silence() -> None:
    global _silent_until  # noqa: PLW0603 - a process knows one hub
    _silent_until = time.monotonic() + _AWAY_S


@contextmanager
def _asking_hub(model: str) -> Iterator[None]:
    """Wrap the hub client's errors. Raise HubUnreachable at once if the hub did not answer in the last seconds."""
    if time.monotonic() < _silent_until:
        raise HubUnreachable(_describe_absence(model))
    with _wrapping_errors(model):
        yield


@contextmanager
def _wrapping_errors(model: str) -> Iterator[None]:
    """Turn the hub client's errors into docmill's errors."""
    errors = _client().errors
    # The client has changed its HTTP library twice; this module always imports that library's root error.
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
        # If the hub does not answer, a file that is not in the cache is an EntryNotFoundError, too.
        if isinstance(error, errors.LocalEntryNotFoundError):
            _note_silence()
            raise HubUnreachable(_describe_absence(model)) from error
        raise ModelNotFound(
            f"{model} is no folder here and no public model on the hub: check the name (`docmill models list` "
            "has those that need no hub), or log in with `hf auth login` if it is private."
        ) from error
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, http_error, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is None or status >= _SERVER_ERROR:  # not an answer about one model
            _note_silence()
        raise HubUnreachable(_describe_absence(model)) from error
