"""Weights kept as pickles, once converted to safetensors: nothing else is ever loaded."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tasks.errors import CannotServe
from tasks.weights import folder_files


def safe_folder(folder: Path, revision: str, cache_dir: Path) -> Path:
    """The folder itself if its weights are safetensors; else a copy in the cache with converted weights.

    The copy is made beside its place and renamed into it, so that two processes that start at once both find a
    whole one. Raises CannotServe where a pickle holds more than tensors.
    """
    names = folder_files(folder)
    pickles = [name for name in names if name.endswith(".bin")]
    if not pickles:
        return folder
    ready = cache_dir / "converted" / revision.replace(":", "-")
    if ready.is_dir():
        return ready
    building = ready.with_name(f"{ready.name}.{uuid.uuid4().hex}")
    try:
        for name in names:
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            if name in pickles:
                _convert(folder / name, building / _safe_name(name))
            elif name.endswith(".bin.index.json"):
                _convert_index(folder / name, building / _safe_name(name))
            else:
                shutil.copyfile(folder / name, building / name)
        try:
            building.rename(ready)
        except OSError:  # another process was first
            if not ready.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return ready


def _safe_name(name: str) -> str:
    """The file name under which transformers looks for the same weights as safetensors."""
    path = Path(name)
    renamed = path.name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
    return path.with_name(renamed).as_posix()


def _convert(source: Path, target: Path) -> None:
    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CannotServe(
            f"{source.name} is not a file of tensors only, and docmill runs no code from model files: "
            "save the model as safetensors."
        ) from error
    if not isinstance(tensors, dict):
        raise CannotServe(f"{source.name} holds no table of tensors.")
    # safetensors refuses tensors that share memory; each gets its own, and loading ties them again.
    own = {
        str(name): tensor.detach().clone().contiguous()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }
    save_file(own, str(target), metadata={"format": "pt"})


def _convert_index(source: Path, target: Path) -> None:
    index: dict[str, Any] = json.loads(source.read_text())
    index["weight_map"] = {name: _safe_name(file) for name, file in index["weight_map"].items()}
    target.write_text(json.dumps(index))
