"""Models with a LoRA adapter merged into their weights, made once and kept in the cache.

The result is saved as a model of its own, so every backend computes it as any other. Opening a kept one needs neither
torch nor PEFT.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from docmill.storage.core.specs import Spec
from docmill.storage.extras import install
from docmill.tasks import kinds
from docmill.tasks.backends.convert import is_whole, made_once, safe_folder
from docmill.tasks.errors import NotInstalled
from docmill.tasks.models.families import Description

# Raised with every change of the merged files.
_FORMAT = 2


def merged(spec: Spec, folder: Path, adapter_folder: Path, cache_dir: Path) -> tuple[Spec, Path]:
    """Return the spec under a revision of the merged weights, and the folder with them.

    If they are not kept: raises NotInstalled without PEFT, and ModelUnsuitable where the adapter does not fit.
    """
    if (made_earlier := kept(spec, folder, cache_dir)) is not None:
        return made_earlier
    if find_spec("peft") is None:
        raise NotInstalled(f"--adapter needs PEFT; {install('adapters')}.")
    head = kinds.kind(spec.kind).adapted_head(spec, Description.of_folder(folder).config)
    made, ready = _place(spec, folder, cache_dir)

    def build(target: Path) -> None:
        from docmill.tasks.backends.merging import merge  # with torch

        merge(spec, safe_folder(folder, spec.revision, cache_dir), adapter_folder, head, target)

    return made, made_once(ready, build, cache_dir)


def kept(spec: Spec, folder: Path, cache_dir: Path) -> tuple[Spec, Path] | None:
    """Return what ``merged`` does, if the cache keeps the merged weights; else None."""
    made, ready = _place(spec, folder, cache_dir)
    return (made, ready) if is_whole(ready, cache_dir) else None


def _place(spec: Spec, folder: Path, cache_dir: Path) -> tuple[Spec, Path]:
    head = kinds.kind(spec.kind).adapted_head(spec, Description.of_folder(folder).config)
    whole = f"{spec.revision} {spec.params['adapter_revision']} {head} {_FORMAT}"
    name = hashlib.sha256(whole.encode()).hexdigest()
    return replace(spec, revision=f"sha256:{name}"), cache_dir / "adapters" / name
