"""What computes: the seam between the engine and the model libraries.

A backend pulls windows from a source as it has room for them, and yields outputs in any order. Those that
schedule themselves take many windows and keep them in flight; the static ones (``tasks.backends.static``)
take one batch at a time. Importing this module imports no model library; opening a backend does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from storage.specs import Spec
from tasks import choice, families
from tasks.batches import Budget
from tasks.errors import BadOption, CannotServe, DeviceUnusable, ModelError, Unsuited
from tasks.kinds.base import Traits
from tasks.outputs import Output
from tasks.pool import Item
from tasks.windows import Encoded

log = logging.getLogger("docmill.backends")


class Source(Protocol):
    """Where a backend gets its windows. Called from the device thread only."""

    def take(self, budget: Budget) -> Sequence[Item[Any]]:
        """The next windows, within the budget; empty when the backend should finish what it has and return.

        A backend with windows in flight may ask again later, and does so as long as it computes: a budget of no rows
        gives nothing, and shows that it is alive.
        """


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


def open_backend(
    spec: Spec, *, device: str, models_dir: Path | None, cache_dir: Path, backend: str = choice.AUTO
) -> Backend:
    """Load the model of a spec onto a device (``cpu``, ``cuda:0``); raises CannotServe with the reason.

    ``backend`` is a name of ``choice.NAMES``: the one that must do it, or the best that is installed and can.
    """
    from tasks import detection, models, null, polyglot
    from tasks.backends import devices

    detection.require_for(spec)
    if specs := polyglot.specs_of(spec):
        from tasks.backends.polyglot import PolyglotBackend

        one = partial(open_backend, device=device, models_dir=models_dir, cache_dir=cache_dir, backend=backend)
        return PolyglotBackend(specs, one)
    pinned = models.Pinned(spec.model, spec.revision)
    try:
        if null.is_null(spec.model):
            from tasks.backends.null import NullBackend

            return NullBackend(spec, device=device)
        folder = models.locate(pinned, models_dir=models_dir, cache_dir=cache_dir)
        config = models.read_config(pinned, models_dir=models_dir)
        return _first_suited(spec, folder, config, device=device, cache_dir=cache_dir, asked=backend)
    except CannotServe:
        raise
    except (ModelError, BadOption) as error:
        raise CannotServe(str(error)) from error
    except Exception as error:  # whatever a model library raises on files it cannot read
        if why := devices.problem(device):
            raise DeviceUnusable(f"{device} can compute nothing: {why}") from error
        reason = " ".join(str(error).split())[:500]
        raise CannotServe(f"{spec.model} cannot be loaded: {type(error).__name__}: {reason}") from error


def _first_suited(
    spec: Spec, folder: Path, config: Mapping[str, Any], *, device: str, cache_dir: Path, asked: str
) -> Backend:
    family = families.family(config)
    names = choice.require_present(
        spec.kind, family, quality=spec.quality, device=device, asked=asked, model=spec.model
    )
    reason: CannotServe | None = None
    last = ""

    def opened(name: str) -> Any:  # those for embeddings say more than a Backend does
        nonlocal last
        last = name
        made = _class_of(name, spec.kind, family, only=len(names) == 1)
        return made(spec, folder, device=device, cache_dir=cache_dir)

    if spec.kind == "embed" and len(names) > 1:
        from tasks.backends.encoder.contest import fastest, leave_out, subject
        from tasks.backends.encoder.fallback import FallbackBackend

        notes, measured = cache_dir / "backends", subject(spec, device, names)
        ahead: Backend = fastest(names, opened, notes, measured)
        if last == choice.OWN_CODE:
            return ahead
        taken_out = partial(leave_out, notes, measured, last)
        return FallbackBackend(ahead, partial(opened, choice.OWN_CODE), taken_out)
    for name in names:
        try:
            suited: Backend = opened(name)
        except Unsuited as error:
            log.info("backend_unsuited backend=%s spec=%s reason=%s", name, spec, error)
            reason = error
        else:
            return suited
    assert reason is not None
    raise reason


def _class_of(name: str, kind: str, family: families.Family | None, *, only: bool) -> Callable[..., Backend]:
    """The backend's class; importing it imports its library. ``only``: no other backend may carry the spec out."""
    if name == "vllm":
        from tasks.backends.decoder_only.vllm_engine import VllmBackend

        return VllmBackend
    if name == "openvino":
        from tasks.backends.encoder.converted.openvino_embed import OpenVinoBackend

        return OpenVinoBackend
    if name == "onnxruntime":
        from tasks.backends.encoder.converted.onnx_embed import OnnxBackend

        return OnnxBackend
    if name == "transformers" and kind == "embed":
        from tasks.backends.encoder.sentence import SentenceBackend

        return SentenceBackend
    if name == "transformers" and (kind == "generate" or family is families.Family.DECODER):
        from tasks.backends.decoder_only.causal import CausalBackend

        return CausalBackend
    if name == "transformers":
        from tasks.backends.encoder_decoder.seq2seq import Seq2SeqBackend

        return Seq2SeqBackend
    if name == "ctranslate2":
        from tasks.backends.encoder_decoder.ctranslate import CTranslateBackend

        return partial(CTranslateBackend, exact=not only)
    raise AssertionError(name)
