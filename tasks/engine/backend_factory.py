"""Open the backend of a spec: the requested one, or the best installed backend that supports the model."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds, languages, patterns
from docmill.tasks.backends import Assignment, Backend, devices, registry, selection
from docmill.tasks.backends.encoder import heads
from docmill.tasks.errors import BadOption, CannotServe, DeviceUnusable, ModelError, Unsuited
from docmill.tasks.models import families, null, served, weightless
from docmill.tasks.models.encoders import Description
from docmill.tasks.models.families import Family
from docmill.tasks.models.served import Server
from docmill.tasks.outputs import Head
from docmill.tasks.specs import adapters, per_language, pinning, tokenizers

log = logging.getLogger("docmill.backends")


def open_backend(
    spec: Spec,
    *,
    device: str,
    models_dir: Path | None,
    cache_dir: Path,
    backend: str = selection.AUTO,
    server: Server | None = None,
    provisional: bool = True,
) -> Backend:
    """Load the model of a spec onto a device (``cpu``, ``cuda:0``); raises CannotServe with the reason.

    ``backend`` is one of ``selection.names()``. ``server`` computes served models, whatever the device and the
    backend. Unless it may be ``provisional``, an encoder is measured on its backends at once, and not after the first
    texts.
    """
    languages.require_detector_for(spec)
    patterns.require_for(spec)
    if specs := per_language.specs_of(spec):
        from docmill.tasks.backends.polyglot import PolyglotBackend

        one = partial(
            open_backend,
            device=device,
            models_dir=models_dir,
            cache_dir=cache_dir,
            backend=backend,
            server=server,
            provisional=provisional,
        )
        return PolyglotBackend(specs, one)
    pinned = pinning.Pinned(spec.model, spec.revision)
    try:
        if null.is_null(spec.model):
            from docmill.tasks.backends.null import NullBackend

            return NullBackend(spec, device=device)
        if served.is_served(spec.model):
            tokenizer = tokenizers.locate(spec, models_dir=models_dir, cache_dir=cache_dir)
            return _on_server(spec, cache_dir, server, tokenizer)
        if weightless.is_weightless(spec.model):
            from docmill.tasks.backends.patterns import PatternsBackend

            return PatternsBackend(spec, device=device)
        if device == registry.REMOTE:
            raise CannotServe(
                f"This worker computes served models only, and not {spec.model}: its --device is remote."
            )
        folder = pinning.locate(pinned, models_dir=models_dir, cache_dir=cache_dir)
        config: Mapping[str, Any] = pinning.read_config(pinned, models_dir=models_dir)
        adapter = adapters.locate(spec, models_dir=models_dir, cache_dir=cache_dir)
        if adapter is not None:
            from docmill.tasks.backends.adapters import merged

            spec, folder = merged(spec, folder, adapter, cache_dir)
            config = Description.of_folder(folder).config
        assignment = Assignment(spec, folder, device, cache_dir, _head(spec, config))
        return _first_suited(assignment, families.family(config), backend, provisional=provisional)
    except CannotServe:
        raise
    except (ModelError, BadOption) as error:
        raise CannotServe(str(error)) from error
    except Exception as error:  # whatever a model library raises on files it cannot read
        if why := devices.problem(device):
            raise DeviceUnusable(f"{device} can compute nothing: {why}") from error
        reason = " ".join(str(error).split())[:500]
        raise CannotServe(f"{spec.model} cannot be loaded: {type(error).__name__}: {reason}") from error


def _on_server(spec: Spec, cache_dir: Path, server: Server | None, tokenizer: Path | None) -> Backend:
    head = kinds.kind(spec.kind).head(Family.DECODER)
    (name,) = selection.require_present(
        spec.kind,
        Family.DECODER,
        quality=spec.quality,
        device=registry.REMOTE,
        asked=registry.REMOTE,
        model=spec.model,
    )
    found = registry.row(name).offer(head, Family.DECODER, spec.quality, registry.REMOTE)
    assert found is not None
    assert head is not None
    assignment = Assignment(spec, cache_dir, registry.REMOTE, cache_dir, head, server=server, tokenizer=tokenizer)
    opened: Backend = pkgutil.resolve_name(found.implementation)(assignment)
    return opened


def _head(spec: Spec, config: Mapping[str, Any]) -> Head:
    """Return the head with which a model of this config does the spec. Raises CannotServe and ModelUnsuitable."""
    if (head := kinds.kind(spec.kind).head(families.family(config))) is None:
        kinds.kind(spec.kind).require(config, spec.model)
        raise AssertionError(spec.kind)
    marks = kinds.kind(spec.kind).marks
    mark = marks.get(head)
    if {mark} - {None} != spec.params.keys() & {*marks.values()}:
        raise CannotServe(f"The config.json of {spec.model} was not known when this job was made: make it again.")
    return head


def _first_suited(assignment: Assignment, family: Family | None, asked: str, *, provisional: bool) -> Backend:
    spec, device, head = assignment.spec, assignment.device, assignment.head
    names = selection.require_present(
        spec.kind, family, quality=spec.quality, device=device, asked=asked, model=spec.model
    )
    assignment = replace(assignment, alone=len(names) == 1)

    def offer(name: str) -> registry.Offer | None:
        return registry.row(name).offer(head, family, spec.quality, device)

    # Those for embeddings say more than a Backend does.
    def opened(name: str, assignment: Assignment = assignment) -> Any:
        found = offer(name)
        assert found is not None, name
        if found.again is not None and (again := pkgutil.resolve_name(found.again)(assignment)) is not None:
            return again
        return pkgutil.resolve_name(found.implementation)(assignment)  # which imports the backend's library

    if head in heads.LOADERS and len(names) > 1:
        return _Contest(names, opened, assignment).opened(provisional=provisional)
    reason: CannotServe | None = None
    for name in names:
        try:
            suited: Backend = opened(name)
        except Unsuited as error:
            log.info("backend_unsuited backend=%s spec=%s reason=%s", name, spec, error)
            reason = error
        else:
            if head not in heads.LOADERS or name == registry.OWN_CODE or offer(registry.OWN_CODE) is None:
                return suited
            # It was asked for by name. The model's own code takes over once an output is not finite.
            from docmill.tasks.backends.encoder.fallback import FallbackBackend

            return FallbackBackend(suited, partial(opened, registry.OWN_CODE))
    assert reason is not None
    raise reason


class _Contest:
    """The backends that can compute a spec. The fastest one does, once there is enough work to measure them."""

    def __init__(self, names: Sequence[str], open_one: Callable[..., Any], assignment: Assignment) -> None:
        from docmill.tasks.backends.encoder import autotune

        self._open_one = open_one
        self._assignment = assignment
        self._notes = assignment.cache_dir / "backends"
        self._subject = autotune.subject(assignment.spec, assignment.device, names, assignment.cache_dir)
        self._measured = autotune.is_measured(names, self._notes, self._subject)
        self._names = autotune.left(names, self._notes, self._subject)

    def opened(self, *, provisional: bool) -> Backend:
        """Return the fastest backend if it is known; else a provisional one, or measure all backends now."""
        from docmill.tasks.backends.encoder.provisional import ProvisionalBackend

        on_cpu = self._assignment.device == registry.CPU
        if self._measured or len(self._names) == 1 or not (provisional and on_cpu):
            return self._fastest()
        try:
            first = self._first()
        except Unsuited as error:
            log.info("backend_unsuited backend=%s spec=%s reason=%s", self._names[0], self._assignment.spec, error)
            self._names = self._names[1:]
            return self._fastest()
        return ProvisionalBackend(first, self._fastest, self._first)

    def _first(self) -> Backend:
        """Return the preferred backend, with batches of the usual size unless another was measured."""
        name = self._names[0]
        return self._guarded(self._open_one(name, replace(self._assignment, tuned=False)), name)

    def _fastest(self) -> Backend:
        from docmill.tasks.backends.encoder.autotune import fastest

        last = ""

        def opened_last(name: str) -> Any:
            nonlocal last
            last = name
            return self._open_one(name)

        ahead = fastest(self._names, opened_last, self._notes, self._subject)
        return self._guarded(ahead, last)

    def _guarded(self, backend: Backend, name: str) -> Backend:
        """Return a backend that changes to the model's own code once an output is not finite."""
        from docmill.tasks.backends.encoder.autotune import leave_out
        from docmill.tasks.backends.encoder.fallback import FallbackBackend

        if name == registry.OWN_CODE or registry.OWN_CODE not in self._names:
            return backend
        taken_out = partial(leave_out, self._notes, self._subject, name)
        return FallbackBackend(backend, partial(self._open_one, registry.OWN_CODE), taken_out)
