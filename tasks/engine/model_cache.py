"""The cache of models loaded on the device. It evicts idle models first."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends import Backend, Journaled
from docmill.tasks.batching import Pool
from docmill.tasks.checks import Checks
from docmill.tasks.engine.documents import Document
from docmill.tasks.engine.submission import Submission
from docmill.tasks.errors import CannotServe, EngineStopped, ServerAway
from docmill.tasks.kinds import Recipe

log = logging.getLogger("docmill.engine")

_RECHECK_S = 0.5

Owner = tuple[Document, int]


@dataclass
class LoadedModel:
    """A loaded model with the windows that wait for it."""

    spec: Spec
    backend: Backend
    recipe: Recipe
    checks: Checks
    pool: Pool[Owner] = field(default_factory=Pool)
    tickets: set[Submission] = field(default_factory=set)  # with texts that lack an outcome
    users: int = 0  # threads that hold it, or the device
    cutting: int = 0  # threads that will put more windows into the pool soon
    withdrawn: bool = False  # its server is away
    journaled: bool = field(init=False)  # it keeps outputs until they are stored

    def __post_init__(self) -> None:
        self.journaled = isinstance(self.backend, Journaled)

    @property
    def idle(self) -> bool:
        return not self.users and not self.tickets


class ModelCache:
    """At most ``bound`` loaded models. ``changed`` guards the residents' fields too, for the engine."""

    def __init__(self, open_backend: Callable[[Spec], Backend], bound: int) -> None:
        self.changed = threading.Condition()
        self.stopping = False
        self._open_backend = open_backend
        self._bound = bound
        self._opening = threading.Lock()
        self._loaded: OrderedDict[Spec, LoadedModel] = OrderedDict()

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter(list(self._loaded.values()))

    def loaded(self, spec: Spec) -> LoadedModel | None:
        """The spec's model, if it is loaded now."""
        with self.changed:
            return self._loaded.get(spec)

    @contextmanager
    def hold(self, spec: Spec) -> Iterator[LoadedModel]:
        """The spec's model, opened if need be, and kept while the block runs.

        Waits while every loaded model has work and none may leave. Raises CannotServe, EngineStopped.
        """
        resident = self._acquire(spec)
        try:
            yield resident
        finally:
            with self.changed:
                resident.users -= 1
                self.changed.notify_all()

    def withdraw(self, resident: LoadedModel, error: ServerAway) -> None:
        """Unlist a model whose server is away, and wake its tickets without the outcomes that they lack.

        The caller holds the model, and waits for no other model's loading, which may wait for this one to leave.
        """
        with self.changed:
            resident.withdrawn = True
            self._loaded.pop(resident.spec, None)
            resident.pool.discard(lambda _: True)
            tickets, resident.tickets = resident.tickets, set()
            self.changed.notify_all()
        for ticket in tickets:
            ticket.withdraw(error)
        resident.backend.close()

    def close(self) -> None:
        with self._opening:
            with self.changed:
                loaded, self._loaded = self._loaded, OrderedDict()
            for resident in loaded.values():
                resident.backend.close()

    def _acquire(self, spec: Spec) -> LoadedModel:
        with self.changed:
            if not self.stopping and spec in self._loaded:  # does not wait for another model's loading
                return self._use(self._loaded[spec])
        with self._opening:
            with self.changed:
                if self.stopping:
                    raise EngineStopped
                if spec in self._loaded:
                    return self._use(self._loaded[spec])
                leaving = self._make_room()
            for resident in leaving:
                log.info("model.closed", extra={"spec": str(resident.spec)})
                resident.backend.close()
            opened = self._open(spec)
            log.info("model.opened", extra={"spec": str(spec)})
            with self.changed:
                self._loaded[spec] = opened
                return self._use(opened)

    def _open(self, spec: Spec) -> LoadedModel:
        try:
            backend = self._open_backend(spec)
        except CannotServe:
            raise
        except Exception as error:
            raise CannotServe(f"{spec.model} cannot be loaded: {type(error).__name__}.") from error
        return LoadedModel(spec, backend, kinds.recipe(spec, backend.traits), kinds.checks(spec, backend.traits))

    def _use(self, resident: LoadedModel) -> LoadedModel:
        resident.users += 1
        self._loaded.move_to_end(resident.spec)
        return resident

    def _make_room(self) -> list[LoadedModel]:
        """Unlist idle models until one more may load; the lock is held, and given up while waiting."""
        leaving: list[LoadedModel] = []
        while len(self._loaded) >= self._bound:
            idle = next((one for one in self._loaded.values() if one.idle), None)
            if idle is not None:
                leaving.append(self._loaded.pop(idle.spec))
            else:
                self.changed.wait(_RECHECK_S)
                if self.stopping:
                    raise EngineStopped
        return leaving
