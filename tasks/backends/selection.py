"""The backends that may carry a spec out on a device, the preferred one first."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from docmill.storage.core.installation import install
from docmill.tasks import kinds
from docmill.tasks.backends import registry
from docmill.tasks.backends.registry import CPU, CUDA, REMOTE, Offer
from docmill.tasks.errors import BadOption, CannotServe, ModelUnsuitable
from docmill.tasks.models import weightless
from docmill.tasks.models.families import Family

AUTO = "auto"


def names() -> tuple[str, ...]:
    """Return the names that may be asked for."""
    return (AUTO, *registry.names())


def installed() -> frozenset[str]:
    """Return the backends whose libraries are on this machine."""
    return frozenset(row.name for row in registry.BACKENDS if row.is_installed)


def candidates(
    kind: str,
    family: Family | None,
    *,
    quality: str,
    device: str,
    present: Collection[str],
    asked: str = AUTO,
) -> tuple[str, ...]:
    """Return the backends to try for a kind of task with a family of models, in order.

    A backend that cannot take the model after all raises Unsuited, and the next is tried. With ``asked`` there is
    only that backend, if it fits at all. Empty where nothing that is present fits. Raises BadOption for the name of
    an unknown backend, and UnknownKind.
    """
    found = _offers(kind, family, quality=quality, device=device, asked=asked)
    return tuple(name for name, _ in found if name in present)


def require_possible(kind: str, family: Family | None, quality: str, model: str) -> None:
    """Raise BadOption where no backend has the precision on any kind of device, be it installed or not."""
    if not any(any(_offers(kind, family, quality=quality, device=device)) for device in (CPU, CUDA)):
        raise BadOption(f"--dtype {quality}: no backend computes {kind} with {family} models such as {model} in it.")


def served_kinds() -> tuple[str, ...]:
    """Return the kinds of tasks that a server's models do."""
    return tuple(kind for kind in kinds.NAMES if any(_offers(kind, Family.DECODER, quality="native", device=REMOTE)))


def is_served(kind: str, model: str) -> bool:
    """Return True for the model of a server. Raises ModelUnsuitable for a kind of task that no such model does."""
    if not weightless.is_served(model):
        return False
    if kind not in served_kinds():
        raise ModelUnsuitable(
            f"A model on a server, such as {model}, cannot do the task {kind}, only {', '.join(served_kinds())}. For "
            "labels use extract, with an enum in the schema."
        )
    return True


def require_present(
    kind: str, family: Family | None, *, quality: str, device: str, asked: str = AUTO, model: str
) -> tuple[str, ...]:
    """Return the candidates that are installed. Raises CannotServe, with what to install, if there is none."""
    if found := candidates(kind, family, quality=quality, device=device, asked=asked, present=installed()):
        return found
    extra = extra_for(kind, family, quality=quality, device=device, asked=asked)
    hint = f"; {install(extra)}" if extra is not None else ""
    native = [offer for _, offer in _offers(kind, family, quality="native", device=device)]
    if asked == AUTO and native and all(offer.extra is not None for offer in native):
        raise CannotServe(f"{kind} with {model} needs a backend that is not installed on this worker{hint}.")
    if asked == AUTO:
        raise CannotServe(f"This worker's backend has no {quality} precision{hint}.")
    if extra is not None:
        raise CannotServe(f"The backend {asked} is not installed on this worker{hint}.")
    raise CannotServe(f"The backend {asked} does not {kind} with {model} on {device} ({quality} precision).")


def extra_for(kind: str, family: Family | None, *, quality: str, device: str, asked: str = AUTO) -> str | None:
    """Return the extra that installs the preferred backend; None where docmill has all that it needs."""
    offers = (offer for _, offer in _offers(kind, family, quality=quality, device=device, asked=asked))
    extra = next((offer.extra for offer in offers if offer.extra is not None), None)
    return extra.package(has_gpu=device != CPU) if extra is not None else None


def _offers(
    kind: str, family: Family | None, *, quality: str, device: str, asked: str = AUTO
) -> Iterator[tuple[str, Offer]]:
    head = kinds.kind(kind).head(family)
    for row in registry.BACKENDS if asked == AUTO else (registry.row(asked),):
        if (offer := row.offer(head, family, quality, device)) is not None:
            yield row.name, offer
