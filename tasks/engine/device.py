"""The device thread and the models loaded for it: it chooses the next spec, computes batches, and measures them."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from docmill.storage.core.specs import Reason, Spec
from docmill.storage.errors import StorageError, raised_at
from docmill.tasks import kinds, tracing
from docmill.tasks.backends import Backend, Served
from docmill.tasks.backends.static import failure
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.checks import Checks
from docmill.tasks.engine.tickets import Ticket, TicketText
from docmill.tasks.errors import CannotServe, DeviceLost, EngineStopped, ServerAway, TaskError
from docmill.tasks.kinds import Recipe
from docmill.tasks.outputs import Generated, Output, Several

log = logging.getLogger("docmill.engine")

TURN_S = 5.0
# A backend that takes windows while it computes others begins a new batch of the accounts at least this often.
ACCOUNT_S = 5.0
_ONE_WINDOW = Budget(tokens=1, rows=1)
# A patient backend waits for this many batches of windows, to choose windows of similar length.
_CHOICE = 2
_RECHECK_S = 0.5
Owner = tuple[TicketText, int]


@dataclass(eq=False)
class LoadedModel:
    """A loaded model with the windows that wait for it."""

    spec: Spec
    backend: Backend
    recipe: Recipe
    checks: Checks
    pool: Pool[Owner] = field(default_factory=Pool)
    tickets: set[Ticket] = field(default_factory=set)  # with texts without an outcome
    users: int = 0  # threads that hold the model, the device's among them
    cutting: int = 0  # threads that will soon put more windows into the pool
    withdrawn: bool = False  # True if the server is away
    journaled: bool = field(init=False)  # True if the backend keeps outputs until they are stored

    def __post_init__(self) -> None:
        self.journaled = isinstance(self.backend, Served)

    @property
    def idle(self) -> bool:
        return not self.users and not self.tickets


class ModelCache:
    """At most ``bound`` loaded models. The lock ``changed`` also guards the fields of the loaded models."""

    def __init__(self, open_backend: Callable[[Spec], Backend], bound: int) -> None:
        self.changed = threading.Condition()
        self.stopping = False
        self._open_backend = open_backend
        self._bound = bound
        self._opening = threading.Lock()
        self._models: OrderedDict[Spec, LoadedModel] = OrderedDict()

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter(list(self._models.values()))

    def loaded(self, spec: Spec) -> LoadedModel | None:
        """Return the spec's model if it is loaded now."""
        with self.changed:
            return self._models.get(spec)

    @contextmanager
    def hold(self, spec: Spec) -> Iterator[LoadedModel]:
        """Yield the spec's model, and open it if necessary. It stays loaded while the block runs.

        Wait while all loaded models have work. Raises CannotServe and EngineStopped.
        """
        loaded = self._acquire(spec)
        try:
            yield loaded
        finally:
            with self.changed:
                loaded.users -= 1
                self.changed.notify_all()

    def withdraw(self, loaded: LoadedModel, error: ServerAway) -> None:
        """Unlist a model whose server is away, and wake its tickets without further outcomes.

        The caller holds the model. This does not wait while another model loads, which may itself wait for room.
        """
        with self.changed:
            loaded.withdrawn = True
            self._models.pop(loaded.spec, None)
            loaded.pool.discard(lambda _: True)
            tickets, loaded.tickets = loaded.tickets, set()
            self.changed.notify_all()
        for ticket in tickets:
            ticket.wake(error)
        loaded.backend.close()

    def close(self) -> None:
        with self._opening:
            with self.changed:
                models, self._models = self._models, OrderedDict()
            for loaded in models.values():
                loaded.backend.close()

    def _acquire(self, spec: Spec) -> LoadedModel:
        with self.changed:
            if not self.stopping and spec in self._models:  # without waiting while another model loads
                return self._use(self._models[spec])
        with self._opening:
            with self.changed:
                if self.stopping:
                    raise EngineStopped
                if spec in self._models:
                    return self._use(self._models[spec])
                leaving = self._make_room()
            for loaded in leaving:
                log.info("model.closed", extra={"spec": str(loaded.spec)})
                loaded.backend.close()
            opened = self._open(spec)
            log.info("model.opened", extra={"spec": str(spec)})
            with self.changed:
                self._models[spec] = opened
                return self._use(opened)

    def _open(self, spec: Spec) -> LoadedModel:
        backend = self._open_backend(spec)
        try:
            return LoadedModel(spec, backend, kinds.recipe(spec, backend.traits), kinds.checks(spec, backend.traits))
        except Exception as error:  # otherwise the job would wait for ever
            backend.close()
            reason = str(error) if isinstance(error, StorageError | TaskError) else raised_at(error)
            raise CannotServe(f"The recipe or the checks of {spec.kind} cannot be made: {reason}.") from error

    def _use(self, loaded: LoadedModel) -> LoadedModel:
        loaded.users += 1
        self._models.move_to_end(loaded.spec)
        return loaded

    def _make_room(self) -> list[LoadedModel]:
        """Unlist idle models until another model may load. The caller holds the lock; waiting releases it."""
        leaving: list[LoadedModel] = []
        while len(self._models) >= self._bound:
            idle = next((loaded for loaded in self._models.values() if loaded.idle), None)
            if idle is not None:
                leaving.append(self._models.pop(idle.spec))
            else:
                self.changed.wait(_RECHECK_S)
                if self.stopping:
                    raise EngineStopped
        return leaving


@dataclass(frozen=True)
class Batch:
    """Windows that went to the device. ``at`` is in seconds of the monotonic clock.

    ``load_tokens`` counts all tokens on the device, with padding: more than the batch's if a backend takes windows
    while it computes others. If such a backend computes for long, a batch may have no windows. ``seconds`` is the
    time on the device; None until the batch is done.
    """

    spec: Spec
    windows: int
    tokens: int
    padded_tokens: int
    load_tokens: int
    at: float
    traceparents: tuple[str, ...] = ()  # the spans of the shards whose texts are in it
    seconds: float | None = None


@dataclass(frozen=True)
class Counters:
    """The work of the device since the start."""

    busy_s: float = 0.0
    batches: int = 0
    tokens_in: int = 0
    padded_tokens: int = 0
    tokens_out: int = 0


OnBatch = Callable[[Batch], None]
Receive = Callable[[LoadedModel, Item[Owner], Output], None]


class Device:
    """A thread that gives waiting windows to their backends, until it is stopped.

    ``error`` is the error that killed the thread, if any. Then all tickets have been woken.
    """

    def __init__(
        self,
        models: ModelCache,
        receive: Receive,
        on_batch: OnBatch | None,
        turn_s: float,
    ) -> None:
        self.models = models
        self._changed = models.changed
        self._receive = receive
        self._on_batch = on_batch
        self._turn_s = turn_s
        self._thread: threading.Thread | None = None
        self.counters = Counters()
        self.error: BaseException | None = None

    def start(self) -> None:
        assert self._thread is None
        self._thread = threading.Thread(target=self._loop, name="docmill-device", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch on the device, then wake every ticket."""
        with self._changed:
            self.models.stopping = True
            waiting = [loaded.backend for loaded in self.models if isinstance(loaded.backend, Served)]
            self._changed.notify_all()
        for backend in waiting:
            backend.end_soon()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._wake_all()

    def take(self, loaded: LoadedModel, budget: Budget, worked_s: float) -> Sequence[Item[Owner]]:
        """Return the model's next batch, or nothing if its turn is over."""
        if budget.rows < 1:
            return []
        with self._changed:
            if self.models.stopping or self._turn(loaded, worked_s) is not loaded:
                return []
            if budget.patience_s:
                self._changed.wait_for(
                    lambda: self.models.stopping or not loaded.cutting or len(loaded.pool) >= _CHOICE * budget.rows,
                    budget.patience_s,
                )
            return [] if self.models.stopping else loaded.pool.take(budget)

    def take_one(self, loaded: LoadedModel) -> Sequence[Item[Owner]]:
        with self._changed:
            return loaded.pool.take(_ONE_WINDOW)

    def tell(self, batch: Batch) -> None:
        if self._on_batch is None:
            return
        try:
            self._on_batch(batch)
        except Exception:
            log.exception("on_batch.raised")

    def deliver(self, loaded: LoadedModel, item: Item[Owner], output: Output) -> None:
        tokens_out = output.tokens if isinstance(output, Generated | Several) else 0
        self.counters = replace(self.counters, tokens_out=self.counters.tokens_out + tokens_out)
        self._receive(loaded, item, output)

    def account(self, batch: Batch, seconds: float) -> None:
        now = self.counters
        self.counters = replace(
            now,
            busy_s=now.busy_s + seconds,
            batches=now.batches + 1,
            tokens_in=now.tokens_in + batch.tokens,
            padded_tokens=now.padded_tokens + batch.padded_tokens,
        )

    def _loop(self) -> None:
        try:
            while (loaded := self._next()) is not None:
                with self.models.hold(loaded.spec):
                    Stretch(self, loaded).run()
        except EngineStopped:
            pass
        except BaseException as error:
            self.error = error
            log.exception("engine.died")
        finally:
            self._wake_all()

    def _next(self) -> LoadedModel | None:
        """Wait for work. Return the model whose turn it is; None when the engine stops."""
        with self._changed:
            while not self.models.stopping:
                if (chosen := self._turn()) is not None:
                    return chosen
                self._changed.wait()
        return None

    def _turn(self, current: LoadedModel | None = None, worked_s: float = 0.0) -> LoadedModel | None:
        """Return the model with the oldest waiting window, or the current model until its turn is over.

        Without turns, shards of two specs would change the contents of the device's caches with each batch. The
        caller holds the lock.
        """
        waiting = [loaded for loaded in self.models if len(loaded.pool)]
        if current in waiting and worked_s < self._turn_s:
            return current
        return min(waiting, key=lambda loaded: loaded.pool.oldest or 0, default=None)

    def _wake_all(self) -> None:
        with self._changed:
            self.models.stopping = True
            tickets = [ticket for loaded in self.models for ticket in loaded.tickets]
            self._changed.notify_all()
        for ticket in tickets:
            ticket.wake()


def _traceparents(items: Sequence[Item[Owner]]) -> tuple[str, ...]:
    traceparents = dict.fromkeys(item.owner[0].ticket.traceparent for item in items)
    return tuple(traceparent for traceparent in traceparents if traceparent is not None)


class Stretch:
    """A backend's work without interruption: the source of its windows, and the accounts of its batches.

    The seconds of a batch are those inside the backend.
    """

    def __init__(self, device: Device, loaded: LoadedModel) -> None:
        self._device = device
        self._loaded = loaded
        self._began = self._resumed = time.monotonic()
        self._flight: dict[int, Item[Owner]] = {}
        self._batch: Batch | None = None
        self._batch_s = 0.0

    def run(self) -> None:
        """Let the backend work until its turn is over or nothing waits for it."""
        self._resumed = time.monotonic()
        try:
            for number, output in self._loaded.backend.run(self):
                self._pause()
                self._device.deliver(self._loaded, self._flight.pop(number), output)
                self._resumed = time.monotonic()
        except (DeviceLost, EngineStopped):
            raise
        except ServerAway as error:
            log.warning("server_away spec=%s error=%s", self._loaded.spec, error)
            self._flight.clear()
            self._device.models.withdraw(self._loaded, error)
        except Exception as error:  # a bug in the backend, since the error of a window is an output
            log.exception("backend.raised", extra={"spec": str(self._loaded.spec)})
            self._fail(error)
        self._pause()
        self._end_batch()
        if self._flight:
            log.error("backend.forgot", extra={"windows": len(self._flight)})
            self._fail(RuntimeError())

    def take(self, budget: Budget) -> Sequence[Item[Owner]]:
        """Return the backend's next windows; none if its turn is over.

        A batch of the accounts ends when the backend takes new windows, or after some seconds.
        """
        self._pause()
        now = time.monotonic()
        items = self._device.take(self._loaded, budget, now - self._began)
        goes_on = bool(self._flight) and self._batch is not None and now - self._batch.at < ACCOUNT_S
        if items or not goes_on:
            self._end_batch()
        self._flight.update((item.id, item) for item in items)
        if items or (self._flight and not goes_on):
            self._begin_batch(items, budget)
        self._resumed = time.monotonic()
        return items

    def _begin_batch(self, items: Sequence[Item[Owner]], budget: Budget) -> None:
        tokens = [item.tokens for item in items]
        load = [item.tokens for item in self._flight.values()]
        self._batch = Batch(
            spec=self._loaded.spec,
            windows=len(items),
            tokens=sum(tokens),
            padded_tokens=budget.computed(tokens) if tokens else 0,
            load_tokens=budget.computed(load),
            at=time.monotonic(),
            traceparents=_traceparents(items) if tracing.is_on() else (),
        )
        self._device.tell(self._batch)

    def _pause(self) -> None:
        self._batch_s += time.monotonic() - self._resumed

    def _end_batch(self) -> None:
        if self._batch is not None:
            self._device.account(self._batch, self._batch_s)
            self._device.tell(replace(self._batch, seconds=self._batch_s))
        self._batch, self._batch_s = None, 0.0

    def _fail(self, error: Exception) -> None:
        """Fail the windows on the device. If there are none, fail the next window, so that the pool shrinks."""
        failed = list(self._flight.values()) or list(self._device.take_one(self._loaded))
        self._flight.clear()
        for item in failed:
            self._device.deliver(self._loaded, item, failure(error, Reason.MODEL))
