"""The files of a model that can change an output, and one hash over them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import orjson

from docmill.storage.core.private_files import make_folder
from docmill.tasks.errors import ModelNotFound
from docmill.tasks.models.json_files import table

# Copies of the weights in formats that are not read here, and what training left behind.
_OTHER_FOLDERS = frozenset({"onnx", "openvino", "coreml", "flax", "tf", "runs", "original", "gguf"})
ADAPTER = "adapter_config.json"
GLINER_CONFIG = "gliner_config.json"
_SMALL = (".json", ".txt", ".model", ".spm", ".bpe", ".tiktoken", ".jinja")
_NOT_READ = re.compile(r"(training_args|optimizer|scheduler|rng_state|trainer_state|all_results|data_config)\b.*")


def files_that_matter(names: Iterable[str]) -> list[str]:
    """Of a model's file names (relative, with ``/``), those that can change an output, sorted.

    Weights are the safetensors files of each folder, or its ``.bin`` files where it has none.
    """
    kept: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        folders = path.parts[:-1]
        if any(part.startswith((".", "checkpoint-")) for part in path.parts):
            continue
        if _OTHER_FOLDERS & set(folders) or _NOT_READ.fullmatch(path.name):
            continue
        if path.suffix in (*_SMALL, ".safetensors", ".bin"):
            kept.setdefault(str(path.parent), []).append(name)
    wanted = []
    for inside in kept.values():
        safe = any(name.endswith(".safetensors") for name in inside)
        for name in inside:
            if safe and (name.endswith((".bin", ".bin.index.json"))):
                continue
            wanted.append(name)
    return sorted(wanted)


def has_weights(names: Iterable[str]) -> bool:
    return any(name.endswith((".safetensors", ".bin")) for name in names)


def adapter_of(model: str, config: bytes) -> str:
    """Return a message for an adapter (such as LoRA) in place of a model; `config` is its adapter_config.json."""
    base = table(config).get("base_model_name_or_path")
    return (
        f"{model} is an adapter{f' of {base}' if base else ''}, and not a whole model. Name its base with --model, "
        "and the adapter with --adapter."
    )


def folder_files(folder: Path) -> list[str]:
    """The files that matter in a local folder; raises ModelNotFound if it holds no model."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    wanted = files_that_matter(names)
    if not any((folder / name).is_file() for name in ("config.json", "modules.json", GLINER_CONFIG)):
        if ADAPTER in names:
            raise ModelNotFound(adapter_of(str(folder), (folder / ADAPTER).read_bytes()))
        raise ModelNotFound(f"{folder} holds no model: it has no config.json.")
    if not has_weights(wanted):
        raise ModelNotFound(f"{folder} holds no weights: neither safetensors nor .bin files.")
    return wanted


def fingerprint(folder: Path, cache_dir: Path) -> str:
    """``sha256:…`` over the (relative name, bytes) of the files that matter.

    Each file's hash is remembered in ``cache_dir`` under its path, size and time of change, so that large
    weights are read once.
    """
    return hash_of(folder, folder_files(folder), cache_dir)


def hash_of(folder: Path, names: Iterable[str], cache_dir: Path) -> str:
    """``sha256:…`` over the (relative name, bytes) of these files, each remembered as ``fingerprint`` says."""
    whole = hashlib.sha256()
    for name in names:
        whole.update(name.encode() + b"\0" + _file_sha256(folder / name, cache_dir))
    return f"sha256:{whole.hexdigest()}"


def file_hash(path: Path, cache_dir: Path) -> str:
    """``sha256:…`` of a file, remembered as ``fingerprint`` says."""
    return f"sha256:{_file_sha256(path, cache_dir).hex()}"


def size_bytes(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in folder_files(folder))


def _file_sha256(path: Path, cache_dir: Path) -> bytes:
    stat = path.stat()
    key = orjson.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino])
    remembered = cache_dir / "hashes" / hashlib.sha256(key).hexdigest()
    try:
        return bytes.fromhex(remembered.read_text())
    except (OSError, ValueError):
        pass
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    make_folder(remembered.parent)
    partial = remembered.with_name(f"{remembered.name}.{os.getpid()}")
    partial.write_text(digest.hex())
    partial.replace(remembered)
    return digest
