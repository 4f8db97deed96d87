"""Encoder-only models on torch: batches side by side, and without padding where torch can."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from docmill.tasks.backends import Assignment, Source, accelerator
from docmill.tasks.backends.encoder import heads, reopening
from docmill.tasks.backends.encoder.batch_tuning import BUDGETS, SIZES, WarmUp, short_window
from docmill.tasks.backends.encoder.comparison import TOLERANCES, Proven, reads_padding
from docmill.tasks.backends.encoder.heads import EncoderModel, StatesOf
from docmill.tasks.backends.encoder.kernels import kernels_for
from docmill.tasks.backends.encoder.packed import Design, PackedEncoder, proven_encoder, take_over
from docmill.tasks.backends.encoder.parallel_batches import Streams
from docmill.tasks.backends.encoder.reopening import Unkept
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("docmill.backends")


class EncoderBackend:
    """One encoder-only model with its head.

    Plain transformers get token ids from the submitting thread; models of other designs (bags of words, static
    embeddings) get the text and tokenise on their own. A fast encoder computes the states of the tokens where there
    is one that gives what the model's own code gives; the head makes outputs of them
    (``tasks.backends.encoder.heads``).
    """

    def __init__(self, assignment: Assignment) -> None:
        spec, device, cache_dir = assignment.spec, assignment.device, assignment.cache_dir
        self._device = device
        self._dtype = self._computed_in(spec.quality)
        self._model, self._encoder = self._opened(assignment)
        self.limit_tokens = self._model.limit_tokens
        # Threads may read texts while another closes the model.
        self._encode = self._model.encode if self._model.tokens is None else self._model.tokens.encode
        kind = device.partition(":")[0]
        budget = BUDGETS[kind]
        if isinstance(self._encoder, PackedEncoder):
            budget = replace(budget, packed=True, padding=1.0)
        elif self._model.reads_padding:
            # Words, which stand for the tokens of a model that tokenises on its own, do not tell equal lengths.
            budget = replace(budget, padding=0.0, rows=1 if self._model.tokens is None else budget.rows)
        self._loop = StaticLoop(self._compute, budget)
        # Models that tokenise on their own are not known to be safe for several threads.
        side_by_side = device == "cpu" and self._model.tokens is not None
        self._streams = Streams(self._loop, self._compute) if side_by_side else None
        self._warm_up = WarmUp(
            self._loop, self.run, short_window(self._model.coder), at_once=self._streams.count if self._streams else 1
        )
        if self._model.tokens is not None:
            here = f"{type(self).__name__} {accelerator.device_name(device)} {torch.get_num_threads()}"
            subject = f"{spec.revision} {spec.quality} {here}"
            self._warm_up.find(SIZES[kind], cache_dir / "batches", subject, measured=assignment.tuned)
        self.traits = self._model.traits

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._encode(texts)

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        return (self._streams or self._loop).run(source)

    def tokens_per_s(self) -> float:
        """Measure for a fraction of a second how fast short windows are computed here."""
        return self._warm_up.rate()

    def runtime(self) -> dict[str, Any]:
        library = self._model.library
        found = accelerator.runtime(library, self._device, self._dtype)
        found["versions"][library] = version(library)
        return found

    def close(self) -> None:
        if self._streams is not None:
            self._streams.close()
        del self._model, self._encoder
        accelerator.release(self._device)

    def _compute(self, items: Items) -> Sequence[Output]:
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            return self._model.outputs([item.encoded for item in items], self._states(items))

    def _states(self, items: Items) -> dict[str, torch.Tensor]:
        """Return the states of a batch's tokens, by the fast encoder if there is one."""
        return (self._encoder or self._model.own_states)([item.encoded for item in items])

    def _computed_in(self, quality: str) -> torch.dtype:
        """Return the precision of the encoder. Raises CannotServe for a quality that this backend does not have."""
        return accelerator.dtype_for(quality, self._device)

    def _loading_dtype(self) -> torch.dtype:
        """Return the precision in which the encoder is loaded."""
        return self._dtype

    def _opened(self, assignment: Assignment) -> tuple[EncoderModel, StatesOf | None]:
        """Return the model and what computes the states in the place of its own code, None where nothing does."""
        ready = reopening.folder(assignment, type(self).__name__)
        again = reopening.reopen(ready, assignment, partial(self._encoder_again, assignment))
        if again is not None:
            return again.model, again.encoder
        model = heads.load(assignment, self._loading_dtype())
        proven = self._fast_encoder(model, assignment)
        if proven is None:
            if reads_padding(model, TOLERANCES[self._loading_dtype()]):
                log.info("batches_of_one_length spec=%s", assignment.spec)
                model = replace(model, encoder=None, reads_padding=True)
            return model, None
        own = model.encoder
        assert own is not None
        try:
            reopening.keep(ready, assignment, model, self._facts(proven.encoder, own, assignment), proven.comparison)
        except Unkept as reason:
            log.info("opening_not_kept spec=%s reason=%s", assignment.spec, reason)
        take_over(own)
        return model, proven.encoder

    def _fast_encoder(self, model: EncoderModel, assignment: Assignment) -> Proven | None:
        """Return the encoder that computes the states in the place of the model's own code, None if there is none."""
        if model.encoder is None:
            return None
        return proven_encoder(model.encoder, self._device, self._dtype, model.reads_first)

    def _facts(self, fast: StatesOf, own: PreTrainedModel, assignment: Assignment) -> Mapping[str, Any]:
        """Return facts from which the fast encoder can be made again. Raises Unkept if there are none."""
        assert isinstance(fast, PackedEncoder)
        weights = {name: own.get_parameter(name) for name in fast.weights}
        places = reopening.weights_in(assignment, weights, own.base_model_prefix)
        return {"design": asdict(fast.design), "weights": places}

    def _encoder_again(self, assignment: Assignment, facts: Mapping[str, Any], tokens: Tokens) -> StatesOf:
        """Return the fast encoder of kept facts. Raises Unkept where it cannot be made."""
        kernels = kernels_for(self._device, self._dtype)
        if kernels is None:
            raise Unkept("kernels")
        weights = reopening.weights_of(assignment, facts["weights"], self._dtype)
        return PackedEncoder(Design(**facts["design"]), weights.pop, self._device, kernels)
