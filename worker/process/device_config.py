"""The configuration that a supervisor sends to its device process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DeviceConfig:
    """The first line on a device process's standard input. With ``only_job`` it offers no other job's shards."""

    owner: str
    device: str
    settings: dict[str, Any]
    only_job: int | None = None

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> DeviceConfig:
        return cls(**json.loads(line))
