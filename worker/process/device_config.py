"""The lines that a device process reads: specs to expect, and the configuration from its supervisor."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docmill.storage.core.specs import Spec
    from docmill.worker.settings import Settings

_EXPECTED = "expected"


@dataclass(frozen=True)
class Expected:
    """A line before the order: a spec, as JSON, which the process will open on a device."""

    spec: str
    device: str
    models_dir: str | None
    cache_dir: str
    backend: str

    @classmethod
    def of(cls, spec: Spec, device: str, settings: Settings) -> Expected:
        models_dir = None if settings.models_dir is None else str(settings.models_dir)
        return cls(spec.to_json().decode(), device, models_dir, str(settings.cache_dir), settings.backend)

    def to_line(self) -> bytes:
        return json.dumps({_EXPECTED: asdict(self)}).encode() + b"\n"


@dataclass(frozen=True)
class DeviceConfig:
    """The order on a device process's standard input. With ``only_job`` it offers no other job's shards."""

    owner: str
    device: str
    settings: dict[str, Any]
    only_job: int | None = None

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def parse(line: bytes) -> Expected | DeviceConfig:
    """Return the content of a line."""
    found = json.loads(line)
    return Expected(**found[_EXPECTED]) if _EXPECTED in found else DeviceConfig(**found)
