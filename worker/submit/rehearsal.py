"""Find specs that no worker could carry out, before anything is stored.

A separate process checks them, since that needs torch. The cache records specs that passed, so that the same command
does not check them again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docmill import command_of
from storage.core.private_files import make_folder
from storage.core.specs import Spec
from tasks import errors
from tasks.backends import selection
from tasks.errors import HubUnreachable, ModelError, TaskError
from tasks.models import families, null
from tasks.specs import per_language, pinning
from worker.settings import Settings

log = logging.getLogger("docmill.rehearsal")

# Raise this number when the checks change.
_FORMAT = 1
# A model that comes with docmill passes all checks, unless an option depends on the size of its window.
_NARROWING = frozenset({"window_tokens", "max_new_tokens", "pooling", "prompt", "prompt_name", "prefix", "labels"})


@dataclass(frozen=True)
class Refused:
    """An error of ours by the name of its class, and its sentence."""

    error: str
    reason: str

    def raised(self) -> TaskError:
        kind: type[TaskError] = getattr(errors, self.error)
        return kind(self.reason)


def require_possible(settings: Settings, spec: Spec, devices: Sequence[str] = ()) -> None:
    """Raise the error that every worker would refuse the spec with, as far as the model's files tell.

    ``devices`` are those of this machine that will compute it: its backends must be here, and files of a hub are
    brought here. Without any, files that are not on this machine are not looked at.
    """
    specs = [*(per_language.specs_of(spec).values() or [spec])]
    for one in specs:
        _require_backend(settings, one, devices)
    wanted = [one for one in specs if _unknown(settings, one)]
    wanted = [one for one in wanted if _here(settings, one, download=bool(devices))]
    for one, refused in zip(wanted, rehearsed(settings, wanted), strict=True):
        if refused is not None:
            raise refused.raised()
        _note(settings, one)


def lacking(settings: Settings, pinned: pinning.Pinned, kinds: Sequence[str]) -> dict[str, str]:
    """Return the kinds of tasks that the model's files on this machine are not enough for, each with the reason."""
    specs = [Spec(kind, pinned.model, pinned.revision) for kind in kinds]
    if null.is_null(pinned.model) or not specs or not _here(settings, specs[0], download=False):
        return {}
    found = rehearsed(settings, specs, weights_only=True)
    return {spec.kind: refused.reason for spec, refused in zip(specs, found, strict=True) if refused is not None}


def rehearsed(settings: Settings, specs: Sequence[Spec], *, weights_only: bool = False) -> list[Refused | None]:
    """Open each spec without its weights, in a child process. Return why each is refused, or None.

    Without the model libraries, or if the child fails, nothing is refused.
    """
    nothing: list[Refused | None] = [None] * len(specs)
    if not specs or any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        return nothing
    order = {
        "models_dir": None if settings.models_dir is None else str(settings.models_dir),
        "cache_dir": str(settings.cache_dir),
        "specs": [spec.to_json().decode() for spec in specs],
        "weights_only": weights_only,
    }
    done = run_child(json.dumps(order).encode())
    try:
        answers = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        log.warning("rehearsal_failed code=%d error=%r", done.returncode, done.stderr[-500:].decode(errors="replace"))
        return nothing
    return [None if answer is None else Refused(**answer) for answer in answers]


def run_child(order: bytes) -> subprocess.CompletedProcess[bytes]:
    """Have a process with the model libraries carry out an order."""
    return subprocess.run(command_of("worker.submit.rehearsal"), input=order, capture_output=True, check=False)


def _require_backend(settings: Settings, spec: Spec, devices: Sequence[str]) -> None:
    pinned = pinning.Pinned(spec.model, spec.revision)
    config = pinning.read_config(pinned, models_dir=settings.models_dir) if devices else {}
    for device in devices if config else ():
        selection.require_present(
            spec.kind,
            families.family(config),
            quality=spec.quality,
            device=device,
            asked=settings.backend,
            model=spec.model,
        )


def _unknown(settings: Settings, spec: Spec) -> bool:
    if null.is_null(spec.model) or (spec.revision in pinning.SHIPPED and not _NARROWING & spec.params.keys()):
        return False
    return not _noted(settings, spec).exists()


def _here(settings: Settings, spec: Spec, download: bool) -> bool:
    pinned = pinning.Pinned(spec.model, spec.revision)
    try:
        return pinning.here(pinned, cache_dir=settings.cache_dir) or (
            download and pinning.locate(pinned, models_dir=settings.models_dir, cache_dir=settings.cache_dir).is_dir()
        )
    except HubUnreachable:  # what is computed already needs no model
        return False


def _noted(settings: Settings, spec: Spec) -> Path:
    name = f"{_FORMAT} {version('docmill')} {version('transformers')} {spec.sha256.hex()}"
    return settings.cache_dir / "rehearsed" / hashlib.sha256(name.encode()).hexdigest()[:32]


def _note(settings: Settings, spec: Spec) -> None:
    note = _noted(settings, spec)
    with suppress(OSError):  # the next one looks again
        make_folder(note.parent)
        note.touch()


def main() -> None:
    order = json.load(sys.stdin)
    answers = [_rehearse(Spec.from_json(spec.encode()), order) for spec in order["specs"]]
    sys.stdout.write("\n" + json.dumps(answers) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the libraries' threads have nothing to say any more


def _rehearse(spec: Spec, order: Mapping[str, Any]) -> dict[str, str] | None:
    from tasks.backends import rehearsal

    look = rehearsal.require_weights if order["weights_only"] else rehearsal.rehearse
    models_dir = None if order["models_dir"] is None else Path(order["models_dir"])
    cache_dir, pinned = Path(order["cache_dir"]), pinning.Pinned(spec.model, spec.revision)
    try:
        config = pinning.read_config(pinned, models_dir=models_dir)
        look(spec, pinning.locate(pinned, models_dir=models_dir, cache_dir=cache_dir), config, cache_dir)
    except TaskError as error:
        return {"error": type(error).__name__, "reason": str(error)}
    except ImportError:  # another machine may have what this one lacks
        return None
    except Exception as error:  # whatever a model library raises on files that it cannot read
        reason = " ".join(str(error).split())[:500]
        return {
            "error": ModelError.__name__,
            "reason": f"{spec.model} cannot be loaded: {type(error).__name__}: {reason}",
        }
    return None


if __name__ == "__main__":
    main()
