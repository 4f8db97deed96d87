"""The choice of the fastest of several backends for a model on this device: measured once, and remembered.

Libraries differ in what they make of a processor: where one is ahead of another by a third, it is behind on the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, TypeVar

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import processor, registry
from docmill.tasks.backends.measurement_cache import remember, remembered
from docmill.tasks.errors import Unsuited

log = logging.getLogger("docmill.backends")

CLEARLY = 1.05
_OUT = "not_finite"


class Contender(Protocol):
    """A backend that can say how fast it is here."""

    def tokens_per_s(self) -> float: ...

    def close(self) -> None: ...


Opened = TypeVar("Opened", bound=Contender)


def subject(spec: Spec, device: str, names: Sequence[str], cache_dir: Path) -> str:
    """Return the name of what a measurement holds for: the weights, the precision, the device and the libraries."""
    name, threads = processor.device(device, cache_dir)
    libraries = " ".join(f"{name} {version(registry.row(name).library)}" for name in sorted(names))
    return f"{spec.revision} {spec.quality} {name} {threads} {libraries}"


def fastest(names: Sequence[str], open_one: Callable[[str], Opened], folder: Path, subject: str) -> Opened:
    """The fastest of the backends ``names``, opened: the first, unless another is clearly ahead of those before it.

    What a measurement found about the ``subject`` (model, precision, device) is kept in the folder. One at a time is
    open, since a model may fill the memory. What was left out is not opened.

    Raises Unsuited where none takes the model.
    """
    note = remembered(folder, subject)
    out = note.get(_OUT, [])
    names = left(names, folder, subject)
    known: str | None = note.get("fastest")
    ordered = sorted(names, key=lambda name: name != known)  # it keeps the order of the others
    rates: dict[str, float] = {}
    reason: Unsuited | None = None
    backend: Opened | None = None
    for name in ordered:
        if backend is not None:
            backend.close()
            backend = None
        try:
            backend = open_one(name)
        except Unsuited as error:
            log.info("backend_unsuited backend=%s reason=%s subject=%s", name, error, subject)
            reason = error
            continue
        if name == known:
            return backend
        rates[name] = round(backend.tokens_per_s(), 1)
    if not rates:
        assert reason is not None
        raise reason
    ahead = best(rates)
    log.info("backend_measured fastest=%s tokens_per_s=%s subject=%s", ahead, rates, subject)
    remember(folder, subject, {"fastest": ahead, "tokens_per_s": rates} | ({_OUT: out} if out else {}))
    if backend is not None and ahead == [*rates][-1]:
        return backend
    if backend is not None:
        backend.close()
    return open_one(ahead)


def left(names: Sequence[str], folder: Path, subject: str) -> Sequence[str]:
    """Return the backends that were not left out for the ``subject``; all of them if all were."""
    out = remembered(folder, subject).get(_OUT, [])
    return [name for name in names if name not in out] or names


def is_measured(names: Sequence[str], folder: Path, subject: str) -> bool:
    """Return True if the fastest of these backends is known for the ``subject``."""
    return remembered(folder, subject).get("fastest") in names


def first(names: Sequence[str], folder: Path, subject: str) -> str:
    """Return the backend to open first: the fastest where it is known, else the preferred one."""
    found = left(names, folder, subject)
    known: str | None = remembered(folder, subject).get("fastest")
    return known if known is not None and known in found else found[0]


def leave_out(folder: Path, subject: str, name: str) -> None:
    """Note that a backend gave NaN or an infinity: it is not used for the ``subject`` any more on this machine."""
    note = remembered(folder, subject)
    remember(folder, subject, {**note, _OUT: sorted({*note.get(_OUT, []), name})})


def best(rates: dict[str, float]) -> str:
    """The first, unless another is clearly ahead of it."""
    ahead, *others = rates
    for name in others:
        if rates[name] >= rates[ahead] * CLEARLY:
            ahead = name
    return ahead
