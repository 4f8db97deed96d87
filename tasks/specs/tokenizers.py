"""Resolve the name of a served model's tokenizer to exact files, and these to a folder on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from docmill.storage.core.specs import Spec
from docmill.tasks.errors import BadOption, ModelCorrupt, ModelNotFound
from docmill.tasks.models import hub, served, weights
from docmill.tasks.models.model_validation import require_files, require_tokenizer
from docmill.tasks.specs.pinning import Pinned

# The parameters of specs with a tokenizer: its name, and its hub commit or the hash of its files.
NAME, REVISION = "tokenizer", "tokenizer_revision"
# Files of tokenizers, and of the chat templates beside them. config.json may name the tokenizer's class.
FILES = (
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "config.json", "merges.txt"),
    *("sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model"),
    *("tokenizer_config.json", "vocab.json", "vocab.txt"),
)
_LOCAL = "sha256:"


def with_tokenizer(pinned: Pinned, tokenizer: str | None, *, models_dir: Path | None, cache_dir: Path) -> Pinned:
    """Return a served model with a tokenizer pinned beside it.

    Raises BadOption for another model, ModelNotFound, HubUnreachable and ModelCorrupt.
    """
    if tokenizer is None:
        return pinned
    if not served.is_served(pinned.model):
        raise BadOption(f"--tokenizer is for models on a server: {pinned.model} has its own; leave it out.")
    folder = _local(tokenizer, models_dir)
    if folder is not None:
        path = Path(tokenizer).expanduser()
        name = str(path.resolve()) if path.is_dir() else tokenizer
        require_tokenizer(folder)
        return _beside(pinned, name, _hash(folder, cache_dir))
    if not hub.HUB_ID.fullmatch(tokenizer):
        raise ModelNotFound(f"{tokenizer} is neither a folder here nor a hub id: --tokenizer takes one of them.")
    commit = hub.commit_of(tokenizer, None, cache_dir)
    _of_hub(tokenizer, commit, cache_dir)
    return _beside(pinned, tokenizer, commit)


def locate(spec: Spec, *, models_dir: Path | None, cache_dir: Path) -> Path | None:
    """Return the folder of a spec's tokenizer, downloaded if need be; None for a spec without one.

    Raises ModelNotFound, ModelCorrupt, HubUnreachable.
    """
    if NAME not in spec.params:
        return None
    name, revision = spec.params[NAME], spec.params[REVISION]
    if not revision.startswith(_LOCAL):
        return _of_hub(name, revision, cache_dir)
    folder = _local(name, models_dir)
    if folder is None:
        raise ModelNotFound(
            f"The tokenizer {name} was a folder where the job was made and is not on this machine: copy it to the "
            "same path here, or into the models directory under the same name."
        )
    if (actual := _hash(folder, cache_dir)) != revision:
        raise ModelCorrupt(
            f"The files of the tokenizer in {folder} are not those that the job was made with ({actual[7:19]} "
            f"instead of {revision[7:19]}): copy the tokenizer again, or make a new job."
        )
    return folder


def _beside(pinned: Pinned, name: str, revision: str) -> Pinned:
    return replace(pinned, beside={**pinned.beside, NAME: name, REVISION: revision})


def _local(tokenizer: str, models_dir: Path | None) -> Path | None:
    places = [Path(tokenizer).expanduser(), *([models_dir / tokenizer] if models_dir is not None else [])]
    return next((place for place in places if place.is_dir()), None)


def _hash(folder: Path, cache_dir: Path) -> str:
    names = [name for name in FILES if (folder / name).is_file()]
    require_files(folder, names)
    return weights.hash_of(folder, names, cache_dir)


def _of_hub(name: str, commit: str, cache_dir: Path) -> Path:
    folder = hub.some_files(name, commit, FILES, cache_dir / "tokenizers")
    try:
        require_tokenizer(folder)
    except ModelCorrupt as error:
        raise ModelNotFound(f"{name} on the hub has no tokenizer that docmill reads.") from error
    return folder
