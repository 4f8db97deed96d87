"""Run docmill's engine alone, in this process, without queue and store. Texts and outcomes stay in memory.

With the same cache as a worker, the engine uses the same backend and the same batches as the worker's device process.
It measures the backends when it opens the model, and the cache keeps these measurements, so neither the engine nor
the worker measures backends while it is timed. The worker's additional time is the cost of queue and store.
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
    """An engine with its model loaded. ``cache_dir`` is the cache of the worker that it is compared with."""

    def __init__(self, task: str, model: str, cache_dir: Path, backend: str = registry.AUTO, **options: Any) -> None:
        folders = ModelFolders(None, cache_dir)
        pinned = pinning.pin(model, folders)
        self.model = pinning.locate(pinned, folders)
        self._spec = build_spec(task, pinned, kinds.options(task, **options), pinning.read_config(pinned, folders))
        open_model = partial(open_backend, device="cpu", folders=folders, backend=backend, provisional=False)
        self.engine = Engine(freeze_after_opening(open_model))
        self.engine.start()
        self.engine.open(self._spec)
        self._run_s = 0.0

    def run(self, texts: Sequence[str]) -> list[Outcome]:
        """Return the outcomes of these texts, in their order. Raises SystemExit if any text has none or failed."""
        began = time.perf_counter()
        with _switch_threads_as_a_device_process():
            ticket = self.engine.submit(self._spec, list(enumerate(texts)))
            if not ticket.wait(WAIT_S) or any(outcome.reason for outcome in ticket.finished()):
                raise SystemExit("the engine did not compute every text")
        self._run_s += time.perf_counter() - began
        return ticket.finished()

    @property
    def busy_share(self) -> float:
        """The share of the time of runs in which the device computed, 0 to 1.

        For the rest the device waits until texts are split. No other work fills this time here.
        """
        return round(self.engine.counters.busy_s / self._run_s, 3)

    def close(self) -> None:
        self.engine.close()


@contextmanager
def _switch_threads_as_a_device_process() -> Iterator[None]:
    """Set Python's interval for switching threads to that of a device process, until the block ends."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual_s)
