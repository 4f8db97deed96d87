"""Files that docmill makes from a model's files once, and keeps in the cache.

This module converts pickled weights to safetensors: docmill loads nothing else. Other modules convert to other
formats with ``make_once``.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docmill.storage.core.private_files import make_folder
from docmill.tasks.errors import CannotServe
from docmill.tasks.models.weights import files_in, folder_files, hash_of

log = logging.getLogger("docmill.backends")

_PROOF = "fingerprint"


def make_once(ready: Path, build: Callable[[Path], None], cache_dir: Path) -> Path:
    """Return the folder ``ready``. If it is missing or damaged, ``build`` makes it first, in a new folder.

    If several processes ask at once, one builds and the others wait. Raises the errors of ``build``.
    """
    if is_whole(ready, cache_dir):
        return ready
    with _lock_file(ready.with_name(f"{ready.name}.lock")):
        if is_whole(ready, cache_dir):
            return ready
        building = ready.with_name(f"{ready.name}.{uuid.uuid4().hex}")
        try:
            make_folder(building)
            build(building)
            (building / _PROOF).write_text(hash_of(building, _files(building), cache_dir))
            if ready.exists():
                log.warning("conversion.damaged folder=%s", ready)
                shutil.rmtree(ready)
            building.rename(ready)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return ready


def is_whole(folder: Path, cache_dir: Path) -> bool:
    """Return True if the folder has exactly the files that were built."""
    try:
        return (folder / _PROOF).read_text() == hash_of(folder, _files(folder), cache_dir)
    except (OSError, UnicodeDecodeError):
        return False


def _files(folder: Path) -> list[str]:
    return sorted(name for name in files_in(folder) if name != _PROOF)


@contextmanager
def _lock_file(lock: Path) -> Iterator[None]:
    make_folder(lock.parent)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also by the death of the process
        yield


def safe_folder(folder: Path, revision: str, cache_dir: Path) -> Path:
    """Return the folder itself if its weights are safetensors; else a copy in the cache with converted weights.

    Raises CannotServe for a pickle with anything but tensors.
    """
    names = folder_files(folder)
    if not any(name.endswith(".bin") for name in names):
        return folder

    def build(target: Path) -> None:
        for name in names:
            make_folder((target / name).parent)
            if name.endswith(".bin"):
                _convert(folder / name, target / _safe_name(name))
            elif name.endswith(".bin.index.json"):
                _convert_index(folder / name, target / _safe_name(name))
            else:
                shutil.copyfile(folder / name, target / name)

    return make_once(cache_dir / "converted" / revision.replace(":", "-"), build, cache_dir)


def _safe_name(name: str) -> str:
    """Return the file name under which transformers looks for the same weights as safetensors."""
    path = Path(name)
    renamed = path.name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
    return path.with_name(renamed).as_posix()


def _convert(source: Path, target: Path) -> None:
    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CannotServe(
            f"{source.name} has more than tensors in it, and docmill runs no code from model files: "
            "save the model as safetensors."
        ) from error
    if not isinstance(tensors, dict):
        raise CannotServe(f"{source.name} holds no table of tensors.")
    # safetensors refuses tensors that share memory, so each is copied. Loading ties them again.
    own = {
        str(name): tensor.detach().clone().contiguous()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }
    save_file(own, str(target), metadata={"format": "pt"})


def index_files(index: Path) -> list[Path]:
    """Return the files with weights that an index names."""
    table: dict[str, str] = json.loads(index.read_text())["weight_map"]
    return sorted({index.with_name(name) for name in table.values()})


def _convert_index(source: Path, target: Path) -> None:
    index: dict[str, Any] = json.loads(source.read_text())
    index["weight_map"] = {name: _safe_name(file) for name, file in index["weight_map"].items()}
    target.write_text(json.dumps(index))
