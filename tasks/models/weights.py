"""The files of a model that can change an output: their common hash, and checks that they are whole."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from docmill.storage.core.private_files import write_note
from docmill.tasks.errors import ModelCorrupt, ModelNotFound
from docmill.tasks.models.families import parse_object, parse_or_none, read_file, read_object

# Folders with copies of the weights in other formats, and with files of the training.
_OTHER_FOLDERS = frozenset({"onnx", "openvino", "coreml", "flax", "tf", "runs", "original", "gguf"})
ADAPTER_CONFIG = "adapter_config.json"
GLINER_CONFIG = "gliner_config.json"
_SMALL = (".json", ".txt", ".model", ".spm", ".bpe", ".tiktoken", ".jinja")
_NOT_READ = re.compile(r"(training_args|optimizer|scheduler|rng_state|trainer_state|all_results|data_config)\b.*")


@dataclass(frozen=True)
class ModelFolders:
    """Folders of this machine: ``models`` has the user's models by name, ``cache`` docmill's downloads and files."""

    models: Path | None
    cache: Path


def files_that_matter(names: Iterable[str]) -> list[str]:
    """Return the sorted names of a model's files (relative, with ``/``) that can change an output.

    A folder's weights are its safetensors files, or its ``.bin`` files if it has none.
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
        wanted += [name for name in inside if not safe or not name.endswith((".bin", ".bin.index.json"))]
    return sorted(wanted)


def has_weights(names: Iterable[str]) -> bool:
    return any(name.endswith((".safetensors", ".bin")) for name in names)


def adapter_of(model: str, config: bytes) -> str:
    """Return the message for an adapter that is named as a model. `config` is its adapter_config.json."""
    base = parse_object(config).get("base_model_name_or_path")
    return (
        f"{model} is an adapter{f' of {base}' if base else ''}, and not a whole model. Name its base with --model, "
        "and the adapter with --adapter."
    )


def files_in(folder: Path) -> list[str]:
    """Return the relative paths of all files in a folder and its subfolders, with ``/``."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def folder_files(folder: Path) -> list[str]:
    """Return the files in a local folder that can change an output. Raises ModelNotFound if it has no model."""
    names = files_in(folder)
    wanted = files_that_matter(names)
    if not any((folder / name).is_file() for name in ("config.json", "modules.json", GLINER_CONFIG)):
        if ADAPTER_CONFIG in names:
            raise ModelNotFound(adapter_of(str(folder), (folder / ADAPTER_CONFIG).read_bytes()))
        raise ModelNotFound(f"{folder} holds no model: it has no config.json.")
    if not has_weights(wanted):
        raise ModelNotFound(f"{folder} holds no weights: neither safetensors nor .bin files.")
    return wanted


def hash_of(folder: Path, names: Iterable[str], cache_dir: Path) -> str:
    """Return the hash ``sha256:…`` of the names and bytes of these files.

    ``cache_dir`` keeps the hash of each file by its path, size and time of change, so that large files are read once.
    """
    whole = hashlib.sha256()
    for name in names:
        whole.update(name.encode() + b"\0" + _file_sha256(folder / name, cache_dir))
    return f"sha256:{whole.hexdigest()}"


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
    with suppress(OSError):  # a read-only cache
        write_note(remembered, digest.hex())
    return digest


_AGAIN = "copy or download the model again"
_LENGTH_BYTES = 8  # of a safetensors header: its own length
MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
_PARSED_BYTES = 1_000_000  # only the end of a longer JSON file is checked
_READ = frozenset(
    {"config.json", GLINER_CONFIG, "modules.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"}
)
_INDEX = ".index.json"
# Tokenizers of bytes or characters, which have no files.
_WITHOUT_FILES = frozenset({"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"})
_VOCABULARIES = (".model", ".spm", ".tiktoken", ".bpe")
_MARIAN = ("source.spm", "target.spm", "vocab.json")


def require_whole(folder: Path) -> None:
    """Raise ModelCorrupt if weights are cut short, or a shard or the tokenizer is missing.

    Raises ModelNotFound for a folder without a model.
    """
    require_files(folder, folder_files(folder))
    require_tokenizer(folder)


def require_files(folder: Path, names: Iterable[str]) -> None:
    """Raise ModelCorrupt if one of these files is cut short, or names a missing shard."""
    for name in names:
        path = folder / name
        _require_content(path)
        if path.suffix == ".safetensors":
            _require_safetensors(path)
        elif path.suffix == ".bin":
            _require_archive(path)
        elif path.name in _READ or name.endswith(_INDEX):
            _require_json(path)
        if name.endswith(_INDEX):
            _require_shards(path)


def _require_content(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            raise ModelCorrupt(f"{path} only points to the file's content: run `git lfs pull` where it was cloned.")


def _require_safetensors(path: Path) -> None:
    """Raise ModelCorrupt unless the file has the length that the offsets in its header state."""
    size = path.stat().st_size
    try:
        header_bytes, tensors = read_header(path)
        ends = (int(tensor["data_offsets"][1]) for tensor in tensors.values())
        expected = header_bytes + max(ends, default=0)
    except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError) as error:
        raise ModelCorrupt(f"{path} is no safetensors file: {_AGAIN}.") from error
    if size != expected:
        raise ModelCorrupt(f"{path} has {size:,} bytes instead of {expected:,}: {_AGAIN}.")


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return the length of a safetensors file's header, and the entry of each tensor. Raises ModelCorrupt."""
    size = path.stat().st_size
    with path.open("rb") as file:
        end = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or end > min(MOST_HEADER_BYTES, size):
            raise ModelCorrupt(f"{path} is no whole safetensors file: {_AGAIN}.")
        entries: dict[str, Any] = orjson.loads(file.read(end - _LENGTH_BYTES))
    return end, {name: entry for name, entry in entries.items() if name != "__metadata__"}


def _require_archive(path: Path) -> None:
    """Raise ModelCorrupt for an archive of torch without the table at its end. Older formats are not checked."""
    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    if path.stat().st_size == 0 or (archive and not zipfile.is_zipfile(path)):
        raise ModelCorrupt(f"{path} is cut short: {_AGAIN}.")


def _require_json(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _PARSED_BYTES))
        end = file.read()
    closed = end.rstrip().endswith((b"}", b"]"))
    if not closed or (size <= _PARSED_BYTES and parse_or_none(end) is None):
        raise ModelCorrupt(f"{path} is not whole: {_AGAIN}.")


def _require_shards(index: Path) -> None:
    files = parse_object(index.read_bytes()).get("weight_map")
    if not isinstance(files, dict):
        raise ModelCorrupt(f"{index} has no table of weights: {_AGAIN}.")
    missing = sorted({str(file) for file in files.values() if not (index.parent / str(file)).is_file()})
    if missing:
        raise ModelCorrupt(f"{index.parent} lacks {', '.join(missing)}, which hold weights: {_AGAIN}.")


def require_tokenizer(folder: Path) -> None:
    """Raise ModelCorrupt if the tokenizer's files are missing, unless the first module is no transformer."""
    modules = parse_or_none(read_file(folder / "modules.json"))
    if isinstance(modules, list):
        first = modules[0] if modules and isinstance(modules[0], dict) else {}
        if str(first.get("type", "")).rpartition(".")[2] != "Transformer":
            return
        folder = folder / str(first.get("path", ""))
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "tokenizer.json" in names:
        return
    config, tokenizer = (read_object(folder / name) for name in ("config.json", "tokenizer_config.json"))
    if tokenizer.get("tokenizer_class") in _WITHOUT_FILES:
        return
    if config.get("model_type") == "marian":
        if missing := [name for name in _MARIAN if name not in names]:
            raise ModelCorrupt(f"{folder} lacks {', '.join(missing)} of its tokenizer: {_AGAIN}.")
    elif not any(name.startswith("vocab.") or name.endswith(_VOCABULARIES) for name in names):
        raise ModelCorrupt(f"{folder} has no tokenizer: put the model's tokenizer.json there, or {_AGAIN}.")
