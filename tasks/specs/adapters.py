"""Resolve an adapter's name to exact files, and these to a folder on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends import selection
from docmill.tasks.errors import ModelCorrupt, ModelNotFound, ModelUnsuitable
from docmill.tasks.models import hub, served, weightless, weights
from docmill.tasks.models.adapters import FILES, Adapter, require_whole
from docmill.tasks.specs import pinning
from docmill.tasks.specs.pinning import ADAPTED, SHIPPED_FOLDER, Checked, Pinned

# The parameters of specs with an adapter: its name, and its hub commit or the hash of its files.
NAME, REVISION = "adapter", "adapter_revision"
_LOCAL = "sha256:"


def pin(
    model: str, adapter: str | None, *, models_dir: Path | None, cache_dir: Path, revision: str | None = None
) -> tuple[Pinned, Mapping[str, Any]]:
    """Return the exact weights of a model and of its adapter, and the config that the two have together.

    An adapter that comes with docmill is named as a model, too. Raises as ``pinning.pin`` and ``with_adapter``.
    """
    if model in ADAPTED:
        if adapter is not None:
            raise ModelUnsuitable(
                f"{model} is an adapter of {ADAPTED[model]}, and takes no other: leave --adapter out, or name the "
                "base with --model."
            )
        model, adapter = ADAPTED[model], model
    pinned = pinning.pin(model, models_dir=models_dir, cache_dir=cache_dir, revision=revision)
    config = pinning.read_config(pinned, models_dir=models_dir)
    return with_adapter(pinned, config, adapter, models_dir=models_dir, cache_dir=cache_dir)


def check(model: str, *, models_dir: Path | None, cache_dir: Path, revision: str | None = None) -> Checked:
    """Return the description of a model, or of an adapter of ours with its base. Raises as ``pinning.check``."""
    if served.is_served(model):
        return Checked(
            Pinned(model, served.revision(model, revision)),
            "a model of a server",
            "served",
            selection.served_kinds(),
            0,
            None,
        )
    if model not in ADAPTED:
        return pinning.check(model, models_dir=models_dir, cache_dir=cache_dir, revision=revision)
    pinned, config = pin(model, None, models_dir=models_dir, cache_dir=cache_dir, revision=revision)
    found = pinning.checked(model, pinned, config, models_dir=models_dir)
    # An adapter with a head is for that alone.
    return replace(found, kinds=tuple(one for one in found.kinds if found.head in kinds.kind(one).families.values()))


def with_adapter(
    pinned: Pinned, config: Mapping[str, Any], adapter: str | None, *, models_dir: Path | None, cache_dir: Path
) -> tuple[Pinned, Mapping[str, Any]]:
    """Return a pinned model with an adapter pinned beside it, and the config that the two have together.

    Raises ModelNotFound, HubUnreachable, ModelCorrupt, and ModelUnsuitable for an adapter of another base.
    """
    if adapter is None:
        return pinned, config
    if weightless.is_weightless(pinned.model):
        raise ModelUnsuitable(f"{pinned.model} has no weights that an adapter could change.")
    name, revision = _pinned(adapter, models_dir, cache_dir)
    read = Adapter.of_folder(name, _folder(name, revision, models_dir, cache_dir))
    read.require_base(pinned.model, is_local=pinned.revision.startswith(_LOCAL))
    return replace(pinned, beside={NAME: name, REVISION: revision}), read.completed(config)


def here(spec: Spec, *, cache_dir: Path) -> bool:
    """Return False if a spec has an adapter of the hub that was not downloaded."""
    if NAME not in spec.params or spec.params[REVISION].startswith(_LOCAL):
        return True
    return hub.downloaded(spec.params[NAME], spec.params[REVISION], cache_dir) is not None


def locate(spec: Spec, *, models_dir: Path | None, cache_dir: Path) -> Path | None:
    """Return the folder of a spec's adapter, downloaded if need be; None for a spec without one.

    Raises ModelNotFound, ModelCorrupt, HubUnreachable.
    """
    if NAME not in spec.params:
        return None
    name, revision = spec.params[NAME], spec.params[REVISION]
    folder = _folder(name, revision, models_dir, cache_dir)
    if revision.startswith(_LOCAL) and (actual := weights.hash_of(folder, FILES, cache_dir)) != revision:
        raise ModelCorrupt(
            f"The files of the adapter in {folder} are not those that the job was made with ({actual[7:19]} instead "
            f"of {revision[7:19]}): copy the adapter again, or make a new job."
        )
    return folder


def _pinned(adapter: str, models_dir: Path | None, cache_dir: Path) -> tuple[str, str]:
    folder = _local(adapter, models_dir)
    if folder is None:
        if adapter in ADAPTED:
            raise pinning.not_shipped(adapter)
        if not hub.HUB_ID.fullmatch(adapter):
            raise ModelNotFound(f"{adapter} is neither a folder here nor a hub id: --adapter takes one of them.")
        return adapter, hub.commit_of(adapter, None, cache_dir)
    require_whole(adapter, folder)
    path = Path(adapter).expanduser()
    named = str(path.resolve()) if adapter not in ADAPTED and path.is_dir() else adapter
    return named, weights.hash_of(folder, FILES, cache_dir)


def _local(adapter: str, models_dir: Path | None) -> Path | None:
    first = SHIPPED_FOLDER / adapter if adapter in ADAPTED else Path(adapter).expanduser()
    places = [first, *([models_dir / adapter] if models_dir is not None else [])]
    return next((place for place in places if place.is_dir()), None)


def _folder(name: str, revision: str, models_dir: Path | None, cache_dir: Path) -> Path:
    if not revision.startswith(_LOCAL):
        if (known := hub.downloaded(name, revision, cache_dir)) is not None:
            return known
        there = hub.file_names(name, revision)
        if lacking := [file for file in FILES if file not in there]:
            raise ModelNotFound(f"{name} on the hub is no adapter that docmill reads: it has no {lacking[0]}.")
        return hub.fetched(name, revision, FILES, cache_dir)
    folder = _local(name, models_dir)
    if folder is None:
        raise ModelNotFound(
            f"The adapter {name} was a folder where the job was made and is not on this machine: copy it to the same "
            "path here, or into the models directory under the same name."
        )
    return folder
