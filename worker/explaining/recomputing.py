"""Compute a result again here in float32, and compare it with the stored one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from worker.errors import WorkerError
from worker.explaining.difference import Cause, Difference, causes, difference

if TYPE_CHECKING:
    from storage.core.specs import Spec
    from storage.outputs.base import OutputType
    from storage.results.provenance import StepRecord
    from tasks.backends import Backend
    from tasks.engine.recording import Computation
    from worker.settings import Settings

REFERENCE = "float32"


class CannotRecompute(WorkerError):
    """The result cannot be computed again here."""


@dataclass(frozen=True)
class Recomputed:
    """A result that was computed again: its output in JSON form, {} if it failed, and the computation.

    `difference` is None where there was no outcome to compare with. `causes` are what differs in how the two were
    computed.
    """

    spec: Spec
    output: Mapping[str, Any]
    computation: Computation
    difference: Difference | None
    causes: tuple[Cause, ...]

    @property
    def same(self) -> bool | None:
        """True for the same output, None where there was none before."""
        return None if self.difference is None else self.difference.same


def recompute(step: StepRecord, output: OutputType, open_one: Callable[[Spec], Backend]) -> Recomputed:
    """Compute the text of a step again, with the weights, options and seed of its spec. Raises CannotRecompute."""
    from tasks.engine.recording import compute
    from tasks.errors import TaskError

    if step.content is None:
        raise CannotRecompute(f"The step {step.name} has no text to compute: the step before it gave none.")
    spec = replace(step.spec, quality=REFERENCE)
    try:
        computation = compute(open_one, spec, step.content)
    except TaskError as error:
        raise CannotRecompute(f"It cannot be computed again here: {error}") from error
    return compared(step, spec, output, computation)


def compared(step: StepRecord, spec: Spec, output: OutputType, computation: Computation) -> Recomputed:
    """Return a computation beside the stored outcome of its step."""
    found, then = computation.outcome, step.outcome
    now = output.result(found) if found.status == "done" else {}
    differing: Difference | None = None
    if then is not None and "done" in {then.status, found.status}:
        if then.status == found.status:
            differing = difference(then.output, now)
        else:
            changed = f"{then.status} then, {found.status} now"
            differing = Difference(False, changed, _reasons(then.reason, found.reason))
    elif then is not None:
        same = (then.status, then.reason) == (found.status, found.reason)
        differing = Difference(same, f"{found.status} again", () if same else _reasons(then.reason, found.reason))
    about = causes(then.runtime, computation.runtime) if then is not None else ()
    return Recomputed(spec, now, computation, differing, about)


def _reasons(then: str | None, now: str | None) -> tuple[str, ...]:
    return tuple(f"{when}: {reason}" for when, reason in (("then", then), ("now", now)) if reason)


def require_here(spec: Spec, settings: Settings) -> None:
    """Raise CannotRecompute where a model of a spec, or its adapter, would have to be downloaded."""
    from tasks.models import weightless
    from tasks.specs import adapters, per_language, pinning

    for one in per_language.specs_of(spec).values() or [spec]:
        pinned = pinning.Pinned(one.model, one.revision)
        if not weightless.is_weightless(one.model) and not pinning.here(pinned, cache_dir=settings.cache_dir):
            raise CannotRecompute(
                f"{one.model} at {one.revision} is not on this machine: run the command where its worker runs, or "
                "run a small source with that --model here, which downloads it."
            )
    if not adapters.here(spec, cache_dir=settings.cache_dir):
        raise CannotRecompute(
            f"The adapter {spec.params[adapters.NAME]} at {spec.params[adapters.REVISION]} is not on this machine: "
            "run the command where its worker runs, or run a small source with that --adapter here, which downloads "
            "it."
        )


def opener(step: StepRecord, settings: Settings, device: str) -> Callable[[Spec], Backend]:
    """Return the function that opens a model by the backend of the stored result, or else by another that is here.

    Raises CannotRecompute where a model would have to be downloaded.
    """
    from tasks.backends import selection
    from tasks.engine.backend_factory import open_backend
    from tasks.errors import CannotServe

    require_here(step.spec, settings)

    def opened_by(backend: str, spec: Spec) -> Backend:
        return open_backend(
            spec,
            device=device,
            models_dir=settings.models_dir,
            cache_dir=settings.cache_dir,
            backend=backend,
            server=settings.server,
        )

    if settings.backend != selection.AUTO:
        return partial(opened_by, settings.backend)

    def opened(spec: Spec) -> Backend:
        for name in backends(step)[:-1]:
            with suppress(CannotServe):
                return opened_by(name, spec)
        return opened_by(selection.AUTO, spec)

    return opened


def backends(step: StepRecord) -> Sequence[str]:
    """Return the backends to try: that of the stored result, the model's own code, any."""
    from tasks.backends import registry, selection

    then = None if step.outcome is None or step.outcome.runtime is None else step.outcome.runtime["backend"]
    named = [then] if then in registry.names() else []
    return [*dict.fromkeys([*named, registry.OWN_CODE, selection.AUTO])]
