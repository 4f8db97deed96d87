"""Find specs that no worker could carry out, before anything is stored.

A separate process checks them, since that needs torch. The cache records specs that passed, so that the same command
does not check them again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from docmill.storage.core.private_files import write_note
from docmill.storage.core.specs import Spec
from docmill.storage.extras import LOCAL
from docmill.tasks import errors, kinds
from docmill.tasks.backends import Assignment, registry
from docmill.tasks.errors import CannotServe, HubUnreachable, ModelError, NotInstalled, TaskError
from docmill.tasks.models import families, weightless
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import TRAINED
from docmill.tasks.specs import pinning, plan
from docmill.worker.concurrency import answer_parent, run_child
from docmill.worker.settings import Settings

log = logging.getLogger("docmill.rehearsal")

# Raise this number when the checks change.
_FORMAT = 1
# A model that comes with docmill passes all checks, unless an option depends on the size of its window.
_NARROWING = frozenset(
    {"window_tokens", "max_new_tokens", "pooling", "prompt", "prompt_name", "prefix", "labels", "adapter"}
)


def require_possible(settings: Settings, specs: Iterable[Spec], devices: Sequence[str] = ()) -> None:
    """Raise the error that every worker would refuse one of these specs with, as far as the models' files tell.

    ``devices`` are those of this machine that will compute them: the backends must be here, and files of a hub are
    brought here. The workers check a hub's model that is not on this machine.
    """
    parts = [part for spec in specs for part in (plan.specs_of(spec).values() or [spec])]
    for part in parts:
        _require_backend(settings, part, devices)
    wanted = [part for part in parts if _unknown(settings, part)]
    for part in [part for part in wanted if devices and not _here(settings, part)]:
        with suppress(HubUnreachable):  # what is computed already needs no model
            pinning.locate(part, settings.model_folders)
    here = [part for part in wanted if _here(settings, part)]
    for spec, refusal in zip(here, _rehearse_in_child(settings, here, weights_only=False), strict=True):
        if refusal is not None:
            raise refusal
        _note(settings, spec)


def find_lacking(settings: Settings, pinned: pinning.Pinned, kinds: Sequence[str]) -> dict[str, str]:
    """Return the kinds of tasks that a model's files on this machine are not enough for, each with the reason."""
    specs = [Spec(kind, pinned.model, pinned.revision, params=pinned.beside) for kind in kinds]
    if weightless.is_weightless(pinned.model) or not specs or not _here(settings, specs[0]):
        return {}
    refusals = _rehearse_in_child(settings, specs, weights_only=True)
    return {kind: str(refusal) for kind, refusal in zip(kinds, refusals, strict=True) if refusal is not None}


def _rehearse_in_child(settings: Settings, specs: Sequence[Spec], *, weights_only: bool) -> list[TaskError | None]:
    """Open each spec without its weights, in a child process. Return why each is refused, or None.

    Without the model libraries, or if the child fails, nothing is refused.
    """
    nothing: list[TaskError | None] = [None] * len(specs)
    if not specs or not LOCAL.is_installed:
        return nothing
    order = {
        "settings": settings.model_dump(mode="json"),
        "specs": [spec.to_json().decode() for spec in specs],
        "weights_only": weights_only,
    }
    done = run_child("docmill.worker.submit.rehearsal", json.dumps(order).encode(), stderr=subprocess.PIPE)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        log.warning("rehearsal_failed code=%d error=%r", done.returncode, done.stderr[-500:].decode(errors="replace"))
        return nothing
    return [None if told is None else getattr(errors, told["error"])(told["reason"]) for told in answer]


def _require_backend(settings: Settings, spec: Spec, devices: Sequence[str]) -> None:
    if weightless.is_served(spec.model):
        if devices:
            weightless.require_server(settings.server, spec.model)
            registry.require_remote(spec)
        return
    if [*devices] == [registry.REMOTE] and not weightless.is_weightless(spec.model):
        raise CannotServe(f"--device remote computes only models of a server, openai:NAME, and not {spec.model}.")
    config = pinning.read_config(spec, settings.model_folders) if devices else {}
    if devices:
        pinning.require_libraries(spec, settings.model_folders)
    for device in devices if config else ():
        registry.require_present(
            spec.kind,
            families.family(config),
            quality=spec.quality,
            device=device,
            wanted=settings.backend,
            model=spec.model,
        )


def _unknown(settings: Settings, spec: Spec) -> bool:
    if weightless.is_weightless(spec.model) or _comes_with_docmill(spec):
        return False
    return not _noted(settings, spec).exists()


def _comes_with_docmill(spec: Spec) -> bool:
    """Return True for a model that is known to pass, alone or with one of our adapters for the task."""
    brings_head = kinds.kind(spec.kind).head(Family.ENCODER) in TRAINED
    is_known = brings_head and spec.params.get(pinning.ADAPTER_REVISION) in pinning.SHIPPED
    adapter = {pinning.ADAPTER} if is_known else set()
    return spec.revision in pinning.SHIPPED and not (_NARROWING - adapter) & spec.params.keys()


def _here(settings: Settings, spec: Spec) -> bool:
    return pinning.here(spec, settings.model_folders)


def _noted(settings: Settings, spec: Spec) -> Path:
    libraries = version("transformers") if LOCAL.is_installed else None
    name = f"{_FORMAT} {version('docmill')} {libraries} {spec.sha256.hex()}"
    return settings.cache_dir / "rehearsed" / hashlib.sha256(name.encode()).hexdigest()[:32]


def _note(settings: Settings, spec: Spec) -> None:
    with suppress(OSError):  # the next one looks again
        write_note(_noted(settings, spec), "")


def main() -> None:
    order = json.load(sys.stdin)
    settings, weights_only = Settings.model_validate(order["settings"]), order["weights_only"]
    specs = (Spec.from_json(spec.encode()) for spec in order["specs"])
    answer_parent([_rehearse(settings, spec, weights_only=weights_only) for spec in specs])


def _rehearse(settings: Settings, spec: Spec, *, weights_only: bool) -> dict[str, str] | None:
    from docmill.tasks.backends import reading
    from docmill.tasks.backends.merging import require_fits

    look = reading.require_weights if weights_only else reading.rehearse
    folders = settings.model_folders
    where = ""
    try:
        folder = pinning.locate(spec, folders)
        where = str(folder)
        adapter = pinning.ADAPTERS.locate_beside(spec, folders)
        if adapter is not None and require_fits(spec, folder, adapter):
            return None  # the model's own files lack the head
        config = pinning.read_config(spec, folders)
        head = kinds.kind(spec.kind).require_head(config, spec.model)
        look(Assignment(spec, folder, "cpu", folders.cache, head))
    except (ImportError, NotInstalled):  # another machine may have what this one lacks
        return None
    except TaskError as error:
        return {"error": type(error).__name__, "reason": str(error)}
    except Exception as error:  # whatever a model library raises on files that it cannot read
        reason = " ".join(str(error).replace(where or spec.model, spec.model).split())[:500]
        return {
            "error": ModelError.__name__,
            "reason": f"{spec.model} cannot be loaded: {type(error).__name__}: {reason}",
        }
    return None


if __name__ == "__main__":
    main()
