"""Encoder-only models on torch: several batches at once, and without padding if possible."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from docmill.tasks.backends import Assignment, WindowSource, accelerator
from docmill.tasks.backends.encoder import heads
from docmill.tasks.backends.encoder.batches import BUDGETS, Streams, WarmUp, measure_rate, short_window
from docmill.tasks.backends.encoder.heads import EncoderModel, StatesOf
from docmill.tasks.backends.encoder.own_code import TOLERANCES, reads_padding
from docmill.tasks.backends.encoder.packed import proven_encoder
from docmill.tasks.backends.registry import version
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.batching import Budget
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")


class EncoderBackend:
    """One encoder-only model with its head.

    Transformers get token ids from the submitting thread. Models of other designs (bags of words, static embeddings)
    get the text and tokenize it themselves. If a fast encoder gives the same states as the model's own code, it
    computes them. The head makes outputs of the states (``tasks.backends.encoder.heads``).
    """

    def __init__(self, assignment: Assignment) -> None:
        self._device = device = assignment.device
        self._dtype = accelerator.dtype_for(assignment.spec.quality, device)
        self._model, self._states_of, budget = self._open(assignment)
        self.limit_tokens = self._model.limit_tokens
        # Threads may read texts while another closes the model.
        self._encode = self._model.encode if self._model.tokens is None else self._model.tokens.encode
        # A model that tokenizes by itself may not be safe to call from several threads.
        side_by_side = device == "cpu" and self._model.tokens is not None
        self._loop = (open_streams if side_by_side else StaticLoop)(self._compute, budget)
        if self._model.tokens is not None:
            WarmUp(self._loop, short_window(self._model.coder)).tune(assignment, type(self).__name__)
        self.traits = self._model.traits

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._encode(texts)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def tokens_per_s(self) -> float:
        """Return the rate with windows of many lengths, measured for about a second."""
        return measure_rate(self._loop, self._model.coder)

    def runtime(self) -> dict[str, Any]:
        library = self._model.library
        return accelerator.runtime(library, self._device, self._dtype, **{library: version(library)})

    def close(self) -> None:
        self._loop.close()
        del self._model, self._states_of
        accelerator.release(self._device)

    def _compute(self, items: Items) -> Sequence[Output]:
        batch = [item.encoded for item in items]
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            return self._model.outputs(batch, self._states_of(batch))

    def _open(self, assignment: Assignment) -> tuple[EncoderModel, StatesOf, Budget]:
        """Return the model, the function that computes its states, and the budget."""
        model, budget = heads.load(assignment, self._dtype), BUDGETS[self._device.partition(":")[0]]
        if model.encoder is not None:
            packed = proven_encoder(model.encoder, self._device, self._dtype, reads_first=model.reads_first)
            if packed is not None:
                model.encoder.to("meta")  # frees the weights that the packed encoder does not share
                return model, packed, replace(budget, packed=True, padding=1.0)
        if reads_padding(model, TOLERANCES[self._dtype]):
            log.info("batches_of_one_length spec=%s", assignment.spec)
            # A model that tokenizes by itself is given words, whose number does not tell equal lengths.
            budget = replace(budget, padding=0.0, rows=1 if model.tokens is None else budget.rows)
        return model, model.own_states, budget


def open_streams(compute: Callable[[Items], Sequence[Output]], budget: Budget) -> Streams:
    """Return as many streams as torch has threads. Each stream computes on its own thread only."""
    streams = Streams(compute, budget, torch.get_num_threads())
    streams.on_each_thread(_compute_alone)
    torch.set_num_threads(streams.at_once)  # for the other threads of this process, as before
    return streams


def _compute_alone() -> None:
    """Let this thread compute alone: each thread keeps the number of threads that it sets itself."""
    torch.get_num_threads()  # the first call on a thread overwrites the number that was set there before
    torch.set_num_threads(1)
