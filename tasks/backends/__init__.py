"""Backends compute. This module is the seam between the engine and the model libraries.

A backend pulls windows from a source as it has room for them, and yields outputs in any order. A backend that
schedules by itself takes many windows and keeps them in flight; a static one (``tasks.backends.static``) takes
one batch at a time. ``tasks.backends.registry`` lists the backends, and ``tasks.engine.backend_factory`` opens
them. Importing this module imports no library.
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


# OpenVINO's converter would report each use to its makers. For that it forks the device process, whose threads may
# hold locks and pipes at that moment. Without this package, the libraries report nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Assignment:
    """A spec for a backend's class to carry out: the model's folder, the device (``cpu``, ``cuda:0``) and the head.

    ``alone`` says that no other backend may carry the spec out. ``server`` computes served models, whose tokens the
    ``tokenizer`` in a folder counts if there is one. ``tuned`` says that a batch size may be measured as the model is
    opened.
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
    """A backend that asks a server. It keeps its outputs on this machine until the store has the outcomes."""

    def end_soon(self) -> None:
        """Give up retries and pauses. ``run`` then raises EngineStopped after the outputs that come."""

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
        """Compute what the source gives until it gives nothing; yields each window's id and output.

        Raises ServerAway where a server computes and is away: what has no output is given back.
        """

    def runtime(self) -> dict[str, Any]:
        """Return what carries the spec out: device, precision, backend, versions."""

    def close(self) -> None:
        """Give the device's memory back."""
