"""Facts about this machine and measurements on it, kept in the cache. The files may be deleted at any time.

The cache keeps torch's facts about the processor for processes without torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docmill.storage.core.private_files import write_note

log = logging.getLogger("docmill.backends")

_FOLDER = "processors"
# Variables that change the number of torch's threads, or its instructions.
_VARIABLES = ("ATEN_", "DNNL_", "GOMP_", "KMP_", "MKL_", "OMP_", "ONEDNN_")
_CPU_FIELDS = ("model name", "flags", "Features", "CPU part")


def recall(folder: Path, subject: str) -> dict[str, Any]:
    """Return the facts that were saved about a subject; {} if there are none, or they cannot be read."""
    try:
        kept = json.loads(_file(folder, subject).read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def remember(folder: Path, subject: str, facts: Mapping[str, Any]) -> None:
    """Save facts for the next process. If the folder is not writable, that process measures again."""
    path = _file(folder, subject)
    try:
        write_note(path, json.dumps({"subject": subject, **facts}, indent=1) + "\n")
    except OSError as error:
        log.warning("measurement_not_kept path=%s error=%s", path, error)


def _file(folder: Path, subject: str) -> Path:
    return folder / f"{hashlib.sha256(subject.encode()).hexdigest()[:16]}.json"


@dataclass(frozen=True)
class Processor:
    """The processor's name as a device, the number of torch's threads, the ``native`` precision, torch's version."""

    name: str
    threads: int
    native: str
    torch: str


def read_processor(cache_dir: Path) -> Processor:
    """Return the facts about the processor: from torch if it is loaded, else from the cache if it has them."""
    subject = _processor_subject()
    kept = recall(cache_dir / _FOLDER, subject)
    kept.pop("subject", None)
    whole = kept.keys() == Processor.__dataclass_fields__.keys()
    if whole and "torch" not in sys.modules:
        return Processor(**kept)
    import torch

    from docmill.tasks.backends import accelerator

    native = str(accelerator.dtype_for("native", "cpu")).removeprefix("torch.")
    facts = Processor(accelerator.device_name("cpu"), torch.get_num_threads(), native, torch.__version__)
    if not whole:
        remember(cache_dir / _FOLDER, subject, asdict(facts))
    return facts


def describe_device(device: str, cache_dir: Path) -> str:
    """Return the name of a device and the number of torch's threads, for subjects of measurements."""
    if device == "cpu":
        here = read_processor(cache_dir)
        return f"{here.name} {here.threads}"
    import torch

    from docmill.tasks.backends import accelerator

    return f"{accelerator.device_name(device)} {torch.get_num_threads()}"


def _processor_subject() -> str:
    """Return everything on which the facts depend."""
    cores = (os.cpu_count(), sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith(_VARIABLES))
    kind = hashlib.sha256("\n".join(_cpu_info()).encode()).hexdigest()
    return f"torch {version('torch')} {platform.platform()} {kind} {cores} {variables}"


def _cpu_info() -> Iterator[str]:
    """Yield the kernel's lines about the processor's kind and instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # another system
        yield platform.processor()
        return
    yield from dict.fromkeys(line for line in lines if line.startswith(_CPU_FIELDS))
