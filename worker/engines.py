"""Engines as the settings want them: a device, and where its models are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from worker.settings import Settings

if TYPE_CHECKING:
    from storage.specs import Spec
    from tasks.backends import Backend
    from tasks.engine import Engine


def opener(settings: Settings, device: str) -> Callable[[Spec], Backend]:
    """What loads the model of a spec onto the device."""
    from tasks.backends import open_backend

    return partial(
        open_backend,
        device=device,
        models_dir=settings.models_dir,
        cache_dir=settings.cache_dir,
        backend=settings.backend,
    )


@contextmanager
def running(settings: Settings, device: str) -> Iterator[Engine]:
    """An engine on the device, for as long as the block runs."""
    from tasks.engine import Engine

    engine = Engine(opener(settings, device))
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
