"""Find specs that no worker could carry out, before anything is stored.

A separate process checks them, since that needs torch. The cache records specs that passed, so that the same command
does not check them again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docmill.storage.core.private_files import make_folder
from docmill.storage.core.specs import Spec
from docmill.storage.extras import LOCAL
from docmill.tasks import errors, kinds
from docmill.tasks.backends import registry
from docmill.tasks.errors import CannotServe, HubUnreachable, ModelError, NotInstalled, TaskError, WeightsNotRead
from docmill.tasks.models import families, hub, weightless
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import TRAINED
from docmill.tasks.specs import pinning, plan
from docmill.worker.concurrency import command_of
from docmill.worker.settings import Settings

log = logging.getLogger("docmill.rehearsal")

# Raise this number when the checks change.
_FORMAT = 1
# A model that comes with docmill passes all checks, unless an option depends on the size of its window.
_NARROWING = frozenset(
    {"window_tokens", "max_new_tokens", "pooling", "prompt", "prompt_name", "prefix", "labels", "adapter"}
)


def require_possible(settings: Settings, specs: Iterable[Spec], devices: Sequence[str] = ()) -> tuple[str, ...]:
    """Raise the error that every worker would refuse one of these specs with, as far as the models' files tell.

    ``devices`` are those of this machine that will compute them: the backends must be here, and files of a hub are
    brought here. Without any, the hub gives the headers of weights that are not on this machine. Return a sentence
    for each model whose weights were not looked at.
    """
    parts = [part for spec in specs for part in (plan.specs_of(spec).values() or [spec])]
    for part in parts:
        _require_backend(settings, part, devices)
    wanted = [part for part in parts if _unknown(settings, part)]
    not_read = _require_fit(settings, wanted)
    if devices:
        brought = [part for part in wanted if not _here(settings, part) and _bring(settings, part)]
        again = [part for part, _ in not_read if part in brought]
        not_read = [told for told in not_read if told[0] not in brought] + _require_fit(settings, again)
    for _, reason in not_read:
        log.info("weights_not_read reason=%r", reason)
    return tuple(dict.fromkeys(reason for _, reason in not_read))


def find_lacking(
    settings: Settings, pinned: pinning.Pinned, kinds: Sequence[str]
) -> tuple[dict[str, str], str | None]:
    """Return the kinds of tasks that the model's files are not enough for, each with the reason.

    The second value says why the weights were not looked at; None if they were.
    """
    specs = [Spec(kind, pinned.model, pinned.revision, params=pinned.beside) for kind in kinds]
    if weightless.is_weightless(pinned.model) or not specs:
        return {}, None
    lacking, not_read = {}, None
    for kind, refusal in zip(kinds, rehearse_specs(settings, specs, weights_only=True), strict=True):
        if isinstance(refusal, WeightsNotRead):
            not_read = not_read or str(refusal)
        elif refusal is not None:
            lacking[kind] = str(refusal)
    return lacking, not_read


def _require_fit(settings: Settings, specs: Sequence[Spec]) -> list[tuple[Spec, str]]:
    """Raise the first refusal, and note the specs that passed. Return why the weights of others were not read."""
    not_read = []
    for spec, refusal in zip(specs, rehearse_specs(settings, specs), strict=True):
        if refusal is None:
            _note(settings, spec)
        elif isinstance(refusal, WeightsNotRead):
            not_read.append((spec, str(refusal)))
        else:
            raise refusal
    return not_read


def rehearse_specs(
    settings: Settings, specs: Sequence[Spec], *, weights_only: bool = False
) -> list[TaskError | None]:
    """Open each spec without its weights, in a child process. Return why each is refused, or None.

    The hub gives the headers of weights that are not on this machine. Without the model libraries, or if the child
    fails, nothing is refused.
    """
    # Offline nothing is to be learned of models that are elsewhere, and a child takes seconds.
    reachable = [not hub.is_offline() or _here(settings, spec) for spec in specs]
    rehearsed = [spec for spec, is_reachable in zip(specs, reachable, strict=True) if is_reachable]
    refusals = iter(_rehearse_in_child(settings, rehearsed, weights_only=weights_only))
    return [
        next(refusals) if is_reachable else hub.not_read(spec.model, "HF_HUB_OFFLINE is set")
        for spec, is_reachable in zip(specs, reachable, strict=True)
    ]


def _rehearse_in_child(settings: Settings, specs: Sequence[Spec], *, weights_only: bool) -> list[TaskError | None]:
    nothing: list[TaskError | None] = [None] * len(specs)
    if not specs or not LOCAL.is_installed:
        return nothing
    order = {
        "models_dir": None if settings.models_dir is None else str(settings.models_dir),
        "cache_dir": str(settings.cache_dir),
        "specs": [spec.to_json().decode() for spec in specs],
        "weights_only": weights_only,
        "hub_is_away": hub.is_away(),
    }
    done = run_child(json.dumps(order).encode())
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        log.warning("rehearsal_failed code=%d error=%r", done.returncode, done.stderr[-500:].decode(errors="replace"))
        return nothing
    if answer["hub_is_away"]:
        hub.leave_alone()
    return [None if told is None else getattr(errors, told["error"])(told["reason"]) for told in answer["refused"]]


def run_child(order: bytes) -> subprocess.CompletedProcess[bytes]:
    """Have a process with the model libraries carry out an order."""
    return subprocess.run(
        command_of("docmill.worker.submit.rehearsal"), input=order, capture_output=True, check=False
    )


def _require_backend(settings: Settings, spec: Spec, devices: Sequence[str]) -> None:
    if weightless.is_served(spec.model):
        if devices:
            _require_server(settings, spec)
        return
    if [*devices] == [registry.REMOTE] and not weightless.is_weightless(spec.model):
        raise CannotServe(f"--device remote computes only models of a server, openai:NAME, and not {spec.model}.")
    pinned = pinning.Pinned(spec.model, spec.revision)
    config = pinning.read_config(pinned, models_dir=settings.models_dir) if devices else {}
    if devices:
        pinning.require_libraries(pinned, models_dir=settings.models_dir)
    for device in devices if config else ():
        registry.require_present(
            spec.kind,
            families.family(config),
            quality=spec.quality,
            device=device,
            wanted=settings.backend,
            model=spec.model,
        )


def _require_server(settings: Settings, spec: Spec) -> None:
    """Raise CannotServe without the libraries of the backend, or the address of the server."""
    if settings.server is None:
        raise CannotServe(
            f"No server is known for {spec.model}: give --endpoint URL, or set DOCMILL_ENDPOINT, such as "
            "http://localhost:8000/v1."
        )
    registry.require_present(
        spec.kind,
        Family.DECODER,
        quality=spec.quality,
        device=registry.REMOTE,
        wanted=registry.REMOTE,
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
    return pinning.here(pinning.Pinned(spec.model, spec.revision), cache_dir=settings.cache_dir)


def _bring(settings: Settings, spec: Spec) -> bool:
    """Bring the files of a hub's model to this machine, and return True if the hub gave them."""
    pinned = pinning.Pinned(spec.model, spec.revision)
    try:
        return pinning.locate(pinned, models_dir=settings.models_dir, cache_dir=settings.cache_dir).is_dir()
    except HubUnreachable:  # what is computed already needs no model
        return False


def _noted(settings: Settings, spec: Spec) -> Path:
    libraries = version("transformers") if LOCAL.is_installed else None
    name = f"{_FORMAT} {version('docmill')} {libraries} {spec.sha256.hex()}"
    return settings.cache_dir / "rehearsed" / hashlib.sha256(name.encode()).hexdigest()[:32]


def _note(settings: Settings, spec: Spec) -> None:
    note = _noted(settings, spec)
    with suppress(OSError):  # the next one looks again
        make_folder(note.parent)
        note.touch()


def main() -> None:
    order = json.load(sys.stdin)
    refused = [_rehearse(Spec.from_json(spec.encode()), order) for spec in order["specs"]]
    sys.stdout.write("\n" + json.dumps({"refused": refused, "hub_is_away": hub.is_away()}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the libraries' threads have nothing to say any more


def _rehearse(spec: Spec, order: Mapping[str, Any]) -> dict[str, str] | None:
    from docmill.tasks.backends import reading
    from docmill.tasks.backends.merging import require_fits

    look = reading.require_weights if order["weights_only"] else reading.rehearse
    models_dir = None if order["models_dir"] is None else Path(order["models_dir"])
    cache_dir, pinned = Path(order["cache_dir"]), pinning.Pinned(spec.model, spec.revision)
    where = ""
    try:
        with _files(pinned, models_dir, cache_dir, order["hub_is_away"]) as folder:
            where = str(folder)
            adapter = pinning.locate_adapter(spec, models_dir=models_dir, cache_dir=cache_dir)
            if adapter is not None and require_fits(spec, folder, adapter):
                return None  # the model's own files lack the head
            look(spec, folder, pinning.read_config(pinned, models_dir=models_dir), cache_dir)
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


@contextmanager
def _files(pinned: pinning.Pinned, models_dir: Path | None, cache_dir: Path, hub_is_away: bool) -> Iterator[Path]:
    """Give the model's folder, or the outline of a hub's model that is not on this machine."""
    if pinning.here(pinned, cache_dir=cache_dir):
        yield pinning.locate(pinned, models_dir=models_dir, cache_dir=cache_dir)
    elif hub_is_away or hub.is_away():
        raise hub.not_read(pinned.model)
    else:
        with hub.outline(pinned.model, pinned.revision) as folder:
            yield folder


if __name__ == "__main__":
    main()
