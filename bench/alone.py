"""docmill's engine by itself, in this process: no queue, no store, texts in memory and outcomes left there.

It works as it does in a device process with the same cache: the same backend, the same batches. It measures the
backends when it opens the model, so that neither of the two does so while it is timed. What is left between them is
the road.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from docmill.storage.core.specs import Outcome
from docmill.tasks import kinds
from docmill.tasks.backends import registry
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec
from docmill.worker.engines import freeze_after_opening
from docmill.worker.process.device import SWITCH_S

WAIT_S = 600.0


class Alone:
    """An engine with its model loaded. ``cache_dir`` is that of the worker beside which it is measured."""

    def __init__(self, task: str, model: str, cache_dir: Path, backend: str = registry.AUTO, **options: Any) -> None:
        folders = ModelFolders(None, cache_dir)
        pinned = pinning.pin(model, folders)
        self.model = pinning.locate(pinned, folders)
        self._spec = build_spec(task, pinned, kinds.options(task, **options), pinning.read_config(pinned, folders))
        opener = partial(open_backend, device="cpu", folders=folders, backend=backend, provisional=False)
        self.engine = Engine(freeze_after_opening(opener))
        self.engine.start()
        self.engine.open(self._spec)
        self._worked_s = 0.0

    def run(self, texts: Sequence[str]) -> list[Outcome]:
        """The outcomes of these texts, in their order. Raises SystemExit if any has none."""
        began = time.perf_counter()
        with _switching():
            ticket = self.engine.submit(self._spec, list(enumerate(texts)))
            if not ticket.wait(WAIT_S) or any(outcome.reason for outcome in ticket.finished()):
                raise SystemExit("the engine did not do every text")
        self._worked_s += time.perf_counter() - began
        return ticket.finished()

    @property
    def busy_share(self) -> float:
        """The part of the time in which the device computed: the rest is cutting, and nothing hides it here."""
        return round(self.engine.counters.busy_s / self._worked_s, 3)

    def close(self) -> None:
        self.engine.close()


@contextmanager
def _switching() -> Iterator[None]:
    """The interpreter changes hands as often as in a device process."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
