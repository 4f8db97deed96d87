"""What computes: the seam between the engine and the model libraries.

A backend pulls windows from a source as it has room for them, and yields outputs in any order. Those that
schedule themselves take many windows and keep them in flight; the static ones (``tasks.backends.static``)
take one batch at a time. Importing this module imports no model library; opening a backend does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from storage.specs import Spec
from tasks.batches import Budget
from tasks.errors import BadOption, CannotServe, ModelError
from tasks.outputs import Output
from tasks.pool import Item
from tasks.recipes import Traits
from tasks.windows import Encoded


class Source(Protocol):
    """Where a backend gets its windows. Called from the device thread only."""

    def take(self, budget: Budget) -> Sequence[Item[Any]]:
        """The next windows, within the budget; empty when the backend should finish and return."""


class Backend(Protocol):
    """A loaded model under one spec."""

    @property
    def traits(self) -> Traits: ...

    @property
    def limit_tokens(self) -> int:
        """The most tokens of one window, special tokens and prompt included."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """What the model will read for each text; may be called from any thread."""

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        """Compute what the source gives until it gives nothing; yields each window's id and output."""

    def runtime(self) -> dict[str, Any]:
        """What carries the spec out: device, precision, backend, versions."""

    def close(self) -> None:
        """Give the device's memory back."""


def open_backend(spec: Spec, *, device: str, models_dir: Path | None, cache_dir: Path) -> Backend:
    """Load the model of a spec onto a device (``cpu``, ``cuda:0``); raises CannotServe with the reason."""
    from tasks import models, null

    pinned = models.Pinned(spec.model, spec.revision)
    try:
        if null.is_null(spec.model):
            from tasks.backends.null import NullBackend

            return NullBackend(spec, device=device)
        folder = models.locate(pinned, models_dir=models_dir, cache_dir=cache_dir)
        if spec.kind == "embed":
            from tasks.backends.sentence import SentenceBackend

            return SentenceBackend(spec, folder, device=device, cache_dir=cache_dir)
        from tasks.backends.seq2seq import Seq2SeqBackend

        return Seq2SeqBackend(spec, folder, device=device, cache_dir=cache_dir)
    except CannotServe:
        raise
    except (ModelError, BadOption) as error:
        raise CannotServe(str(error)) from error
    except Exception as error:  # whatever a model library raises on files it cannot read
        reason = " ".join(str(error).split())[:500]
        raise CannotServe(f"{spec.model} cannot be loaded: {type(error).__name__}: {reason}") from error
