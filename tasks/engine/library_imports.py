"""Import the libraries that the opening of a spec will need, while another process still reads the source."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends import Assignment, registry, selection
from docmill.tasks.backends.adapters import kept
from docmill.tasks.backends.encoder import heads
from docmill.tasks.backends.registry import Offer
from docmill.tasks.models import families, weightless
from docmill.tasks.models.encoders import Description
from docmill.tasks.specs import adapters, per_language, pinning

log = logging.getLogger("docmill.backends")


@dataclass(frozen=True)
class Place:
    """A device, with the folders and the requested backend for opening specs on it."""

    device: str
    models_dir: Path | None
    cache_dir: Path
    backend: str = selection.AUTO


def import_libraries(spec: Spec, place: Place) -> None:
    """Import what opening the spec will import. Opening reports what is wrong with a spec, so this raises nothing."""
    for one in per_language.specs_of(spec).values() or [spec]:
        try:
            for module in modules(one, place):
                import_module(module)
        except Exception as error:  # whatever model libraries raise, and the errors of models
            log.info("libraries_not_imported spec=%s error=%r", one, error)


def modules(spec: Spec, place: Place) -> list[str]:
    """Return the modules that opening a spec imports; none for a model that is not on this machine.

    A model that an adapter is still to be merged into is another one, of which only the merging is known.
    """
    pinned = pinning.Pinned(spec.model, spec.revision)
    away = weightless.is_weightless(spec.model) or not pinning.here(pinned, cache_dir=place.cache_dir)
    if away:
        return []
    folder = pinning.locate(pinned, models_dir=place.models_dir, cache_dir=place.cache_dir)
    config: Mapping[str, Any] = pinning.read_config(pinned, models_dir=place.models_dir)
    if adapters.NAME in spec.params:
        if (merged := kept(spec, folder, place.cache_dir)) is None:
            return ["docmill.tasks.backends.merging", "peft"]
        spec, folder = merged
        config = Description.of_folder(folder).config
    family = families.family(config)
    head, present = kinds.kind(spec.kind).head(family), selection.installed()
    names = selection.candidates(
        spec.kind, family, quality=spec.quality, device=place.device, present=present, asked=place.backend
    )
    if head is None or not names:
        return []
    assignment = Assignment(spec, folder, place.device, place.cache_dir, head, alone=len(names) == 1)
    offer = registry.row(_first(names, assignment)).offer(head, family, spec.quality, place.device)
    assert offer is not None
    return _of_offer(offer, assignment)


def _first(names: tuple[str, ...], assignment: Assignment) -> str:
    """Return the backend that is opened first: the fastest if it is known."""
    if assignment.head not in heads.LOADERS or assignment.alone:
        return names[0]
    from docmill.tasks.backends.encoder import autotune

    subject = autotune.subject(assignment.spec, assignment.device, names, assignment.cache_dir)
    return autotune.first(names, assignment.cache_dir / "backends", subject)


def _of_offer(offer: Offer, assignment: Assignment) -> list[str]:
    implementation = offer.implementation.partition(":")[0]
    if assignment.head not in heads.LOADERS:
        return [implementation]
    if offer.again is not None:
        module = offer.again.partition(":")[0]
        if pkgutil.resolve_name(f"{module}:kept_folder")(assignment) is not None:
            return [module]
    from docmill.tasks.backends.encoder import reopening

    kept = offer.again is None and reopening.is_kept(assignment, offer.implementation.partition(":")[2])
    return [implementation] if kept else [implementation, *heads.libraries(assignment.head)]
