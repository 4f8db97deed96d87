"""Specs, which are everything that can change an output, and the kinds of task that they name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from docmill.storage.outputs.output_types import OutputType


@dataclass(frozen=True)
class Spec:
    """Everything that can change an output: the kind of task, the model with its revision, and the options.

    ``revision`` pins the weights: a hub commit (40 hex digits) or ``sha256:…`` of a local folder's files. ``quality``
    is ``native`` (the device's own precision), or a precision by name: ``float32``, ``bfloat16``, ``float16``,
    ``int8``. ``params`` holds only options that were given, as JSON values; the revision pins the model's own
    generation_config.
    """

    kind: str
    model: str
    revision: str
    quality: str = "native"
    params: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The canonical form: UTF-8 JSON, keys sorted at every level, no white space."""
        return orjson.dumps(
            {
                "kind": self.kind,
                "model": self.model,
                "revision": self.revision,
                "quality": self.quality,
                "params": dict(self.params),
            },
            option=orjson.OPT_SORT_KEYS,
        )

    @classmethod
    def from_json(cls, raw: bytes) -> Spec:
        return cls(**orjson.loads(raw))

    @property
    def sha256(self) -> bytes:
        """The spec's identity: SHA-256 (32 bytes) of its canonical JSON."""
        return hashlib.sha256(self.to_json()).digest()

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __str__(self) -> str:
        adapter = f" + {self.params['adapter']}" if "adapter" in self.params else ""
        model = f"{self.model}@{self.revision.removeprefix('sha256:')[:12]}{adapter}"
        return f"{self.kind} with {model} ({self.quality})"


@dataclass(frozen=True)
class ShardSize:
    """The bounds of a shard: whichever is reached first. Aimed at 10 to 60 s of work."""

    contents: int
    chars: int


# A device writes text about a hundred times slower than it reads it.
READING_SIZE = ShardSize(256, 400_000)
WRITING_SIZE = ShardSize(64, 60_000)


@dataclass(frozen=True)
class StoredKind:
    """A kind of task, as the store knows it. A spec names it, and so does the lane of its shards."""

    name: str
    output: OutputType
    shard: ShardSize
