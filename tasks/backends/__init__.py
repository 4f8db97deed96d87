"""The interface between the engine and the backends, which compute with the model libraries.

A backend takes windows from a source when it has room, and yields outputs in any order. A backend that schedules by
itself keeps many windows in flight; a static backend (``tasks.backends.static``) takes one batch at a time.
``tasks.backends.registry`` lists the backends, and ``tasks.engine.backend_factory`` opens them. Importing this module
imports no library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from docmill.storage.core.specs import Spec
    from docmill.tasks.batching import Budget, Item
    from docmill.tasks.kinds.base import Traits
    from docmill.tasks.models.weightless import Server
    from docmill.tasks.outputs import Head, Output
    from docmill.tasks.windows.windows import Encoded


# OpenVINO's converter reports each use to its makers, and forks the device process for it while other threads may
# hold locks. Without this package, it reports nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Assignment:
    """A spec for a backend to compute: with the model's folder, the device (``cpu``, ``cuda:0``) and the head.

    ``alone``: no other backend can compute the spec. ``server``: the server of a served model; ``tokenizer`` is a
    folder with its tokenizer, if known. ``tuned``: opening the model may measure batch sizes.
    """

    spec: Spec
    folder: Path
    device: str
    cache_dir: Path
    head: Head
    alone: bool = True
    server: Server | None = None
    tokenizer: Path | None = None
    tuned: bool = True


@runtime_checkable
class Served(Protocol):
    """A backend that asks a server. It keeps outputs on this machine until the store has their outcomes."""

    def end_soon(self) -> None:
        """Give up retries and pauses. ``run`` yields the outputs that still come, then raises EngineStopped."""

    def forget(self, windows: Sequence[Encoded]) -> None:
        """Remove the outputs of windows whose outcomes are stored; may be called from any thread."""


class WindowSource(Protocol):
    """The source of a backend's windows. Only the device thread calls it."""

    def take(self, budget: Budget) -> Sequence[Item[Any]]:
        """Return the next windows, within the budget. After an empty answer the backend finishes and returns.

        A backend with windows in flight calls this again as long as it computes. With a budget of no rows, it gets
        nothing, but shows that it is alive.
        """


@dataclass(frozen=True)
class FilteredSource:
    """A source for a backend inside another backend: ``take`` filters the windows of the outer source."""

    take: Callable[[Budget], Sequence[Item[Any]]]


class Backend(Protocol):
    """A loaded model under one spec."""

    @property
    def traits(self) -> Traits: ...

    @property
    def limit_tokens(self) -> int:
        """The most tokens of one window, special tokens and prompt included."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Return what the model will read for each text; may be called from any thread."""

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        """Compute windows until the source has none; yield the id and the output of each.

        Raises ServerAway if the model's server is away. Windows without an output then go back to the store.
        """

    def runtime(self) -> dict[str, Any]:
        """Return the device, the precision, the backend's name and the versions of libraries."""

    def close(self) -> None:
        """Free the device's memory."""
