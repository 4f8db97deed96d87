"""Engines as the settings want them: a device, and where its models are found."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from docmill.worker.settings import ANSWERS, Settings

if TYPE_CHECKING:
    from docmill.storage.core.specs import Spec
    from docmill.tasks.backends import Backend
    from docmill.tasks.engine.engine import Engine

_USUAL = (700, 10, 10)  # Python's own; a process starts with others


def opener(
    settings: Settings, device: str, *, provisional: bool = True, journaled: bool = False
) -> Callable[[Spec], Backend]:
    """Return the function that loads the model of a spec onto the device, as ``open_backend`` does.

    ``journaled``: the answers of a server are kept until their outcomes are stored.
    """
    from docmill.tasks.engine.backend_factory import open_backend

    server = settings.server
    if server is not None and journaled:
        server = replace(server, journal=settings.home / ANSWERS)
    return partial(
        open_backend,
        device=device,
        models_dir=settings.models_dir,
        cache_dir=settings.cache_dir,
        backend=settings.backend,
        server=server,
        provisional=provisional,
    )


def settled(open_one: Callable[[Spec], Backend]) -> Callable[[Spec], Backend]:
    """The opener for a process that works on for long: what is there after each opening is no garbage.

    A model and its libraries are half a million objects. Python would look through all of them again and again as
    texts come and go, a quarter of a second each time, in which no other thread has the interpreter.
    """

    opened = False

    def open_and_settle(spec: Spec) -> Backend:
        nonlocal opened
        if opened:  # another model was here, and may have been closed
            gc.unfreeze()
            gc.collect()
        opened = True
        backend = open_one(spec)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_USUAL)
        return backend

    return open_and_settle


@contextmanager
def running(settings: Settings, device: str) -> Iterator[Engine]:
    """An engine on the device, for as long as the block runs."""
    from docmill.tasks.engine.engine import Engine

    engine = Engine(opener(settings, device))
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
