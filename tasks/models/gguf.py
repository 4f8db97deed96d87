"""GGUF files, as llama.cpp has them: a model in one file, whose beginning describes it.

The beginning is read here, since the package `gguf` takes seconds for a vocabulary of usual size, and a machine that
only enqueues needs none. The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docmill.storage.extras import install
from docmill.tasks.errors import ModelCorrupt, ModelNotFound, ModelUnsuitable, NotInstalled

SUFFIX = ".gguf"
LIBRARIES = ("gguf", "accelerate")
# Raised with every change of what a conversion writes.
_CONVERSION = 1
_MAGIC = b"GGUF"
_VERSIONS = frozenset({2, 3})
# Types of values by their number, without strings and arrays.
_NUMBERS: Mapping[int, str] = MappingProxyType(
    {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
)
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
_MOST_DIMENSIONS = 8
# Weights in a block and bytes of a block, by ggml's number of the type.
_BLOCKS: Mapping[int, tuple[int, int]] = MappingProxyType(
    {
        0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
        10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
        16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
        23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    }
)  # fmt: skip
# Architectures that are no decoder-only models, by a part of their names.
_ENCODERS = ("bert", "embedding", "clip", "wavtokenizer")
_ENCODER_DECODERS = ("t5", "bart", "whisper")


@dataclass(frozen=True)
class Header:
    """The description at the beginning of a file; ``end`` is the size in bytes that the file has at least."""

    values: Mapping[str, Any]
    end: int

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))


def file_of(model: str, models_dir: Path | None) -> Path | None:
    """Return the GGUF file that a model's name stands for: a file, or the only one in a folder without other weights.

    Raises ModelNotFound for a folder with several.
    """
    places = [Path(model).expanduser(), *([models_dir / model] if models_dir is not None else [])]
    for place in places:
        if place.suffix.lower() == SUFFIX and place.is_file():
            return place
        if place.is_dir():
            return _only(place)
    return None


def _only(folder: Path) -> Path | None:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX)
    if not files or any(path.suffix in {".safetensors", ".bin"} for path in folder.iterdir()):
        return None
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ModelNotFound(f"{folder} holds several GGUF files: name one of them with --model ({names}).")
    return files[0]


def require(file: Path) -> None:
    """Raise ModelCorrupt for a file that is not whole, ModelUnsuitable for one that holds no decoder-only model."""
    header = read(file)
    if (size := file.stat().st_size) < header.end:
        raise ModelCorrupt(f"{file} has {size:,} bytes instead of {header.end:,}: download it again.")
    architecture, kind = header.architecture, str(header.values.get("general.type", "model"))
    if (parts := header.values.get("split.count", 1)) > 1:
        raise ModelUnsuitable(
            f"{file} is one of {parts} parts of a model: join them with `llama-gguf-split --merge`, and name "
            "the whole file."
        )
    if kind != "model" or not architecture:
        raise ModelUnsuitable(f"{file} holds no model ({kind}): name a GGUF file with a whole model.")
    for family, names in (("an encoder-only", _ENCODERS), ("an encoder-decoder", _ENCODER_DECODERS)):
        if any(name in architecture for name in names):
            raise ModelUnsuitable(
                f"{file} holds {family} model ({architecture}). Of GGUF files, docmill reads decoder-only models: "
                "name a folder or a hub id with the model's safetensors."
            )


def require_extra(file: Path) -> None:
    """Raise NotInstalled where the libraries that read weights are not installed."""
    if any(find_spec(library) is None for library in LIBRARIES):
        raise NotInstalled(f"{file} is a GGUF file, which needs the extra gguf: {install('gguf')}.")


def converted_place(revision: str, cache_dir: Path) -> Path:
    """Return the folder in the cache that a file with this hash is converted into."""
    return cache_dir / "gguf" / f"{revision.rpartition(':')[2]}-{_CONVERSION}"


def config(file: Path) -> dict[str, Any]:
    """Return the part of a model's config.json that its family and its window are told by."""
    header = read(file)
    architecture = header.architecture
    described = {"model_type": architecture, "architectures": [f"{architecture.title()}ForCausalLM"]}
    length = header.values.get(f"{architecture}.context_length")
    return described | ({"max_position_embeddings": length} if isinstance(length, int) else {})


def read(file: Path) -> Header:
    """Return the description in a file. Raises ModelCorrupt."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _HeaderReader(data).header()
    except (ValueError, struct.error, OverflowError) as error:
        raise ModelCorrupt(f"{file} is no whole GGUF file: download it again.") from error


class _HeaderReader:
    """A file's beginning as it is read. Raises ValueError and struct.error for files that are damaged."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, len(_MAGIC)

    def header(self) -> Header:
        if self._data[: len(_MAGIC)] != _MAGIC or self._number("I") not in _VERSIONS:
            raise ValueError
        n_tensors, n_values = self._number("Q"), self._number("Q")
        values = {}
        for _ in range(n_values):
            name = self._text()
            values[name] = self._value(self._number("I"))
        ends = [self._tensor() for _ in range(n_tensors)]
        alignment = int(values.get("general.alignment", _ALIGNMENT)) or _ALIGNMENT
        begin = -(-self._at // alignment) * alignment
        return Header(values, begin + max(ends, default=0))

    def _tensor(self) -> int:
        """Return the place behind a tensor's weights, counted from the first tensor's."""
        self._text()
        n_dimensions = self._number("I")
        if n_dimensions > _MOST_DIMENSIONS:
            raise ValueError
        n_weights = math.prod(int(self._number("Q")) for _ in range(n_dimensions))
        in_block, n_bytes = _BLOCKS.get(self._number("I"), (1, 0))
        return int(self._number("Q")) + n_weights // in_block * n_bytes

    def _value(self, kind: int) -> Any:
        """Return a number or a text; None for an array, which is passed over."""
        if kind == _STRING:
            return self._text()
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise ValueError
        inside, n = self._number("I"), self._number("Q")
        if inside == _STRING:
            for _ in range(n):
                self._skip(self._number("Q"))
        elif inside in _NUMBERS:
            self._skip(n * struct.calcsize(f"<{_NUMBERS[inside]}"))
        else:
            raise ValueError
        return None

    def _number(self, form: str) -> Any:
        form = f"<{form}"
        [number] = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return number

    def _text(self) -> str:
        begin = self._at + 8
        self._skip(self._number("Q"))
        return self._data[begin : self._at].decode(errors="replace")

    def _skip(self, n_bytes: int) -> None:
        self._at += n_bytes
        if self._at > len(self._data):
            raise ValueError
