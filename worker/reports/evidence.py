"""The evidence for the flags of an example: the checks run again, and their findings for these flags."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from docmill.tasks.checks import Checks, Finding

if TYPE_CHECKING:
    from docmill.storage.core.specs import Spec
    from docmill.tasks.models.families import Direction

ChecksOf = Callable[["Spec"], Checks]


def checks_of(models_dir: Path | None, cache_dir: Path) -> ChecksOf:
    """Return the function from a spec to the checks of its outputs.

    A model's own languages are known where its files are on this machine.
    """

    def checks(spec: Spec) -> Checks:
        from docmill.tasks import kinds

        return kinds.checks(spec, kinds.Traits(direction=_direction(spec, models_dir, cache_dir)))

    return checks


def findings(checks: Checks, given: str, output: str, flags: Collection[str]) -> tuple[Finding, ...]:
    """Return the findings in an output for its own flags; the checks of this release may find more."""
    return tuple(one for one in checks.findings(given, output, flags) if one.flag in flags)


def _direction(spec: Spec, models_dir: Path | None, cache_dir: Path) -> Direction:
    from docmill.tasks.errors import TaskError
    from docmill.tasks.models import families, gguf
    from docmill.tasks.specs import pinning

    pinned = pinning.Pinned(spec.model, spec.revision)
    if Path(spec.model).suffix.lower() == gguf.SUFFIX or not pinning.here(pinned, cache_dir=cache_dir):
        return families.UNKNOWN
    try:
        return families.direction_of_folder(pinning.locate(pinned, models_dir=models_dir, cache_dir=cache_dir))
    except TaskError:
        return families.UNKNOWN
