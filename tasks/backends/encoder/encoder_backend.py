"""Encoder-only models on torch: batches side by side, and without padding where torch can."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from docmill.tasks.backends import Assignment, WindowSource, accelerator
from docmill.tasks.backends.encoder import heads
from docmill.tasks.backends.encoder.batches import BUDGETS, Streams, WarmUp, short_window
from docmill.tasks.backends.encoder.heads import EncoderModel, StatesOf
from docmill.tasks.backends.encoder.own_code import TOLERANCES, reads_padding
from docmill.tasks.backends.encoder.packed import proven_encoder
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.batching import Budget
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")


class EncoderBackend:
    """One encoder-only model with its head.

    Plain transformers get token ids from the submitting thread; models of other designs (bags of words, static
    embeddings) get the text and tokenize on their own. A fast encoder computes the states of the tokens where there
    is one that gives what the model's own code gives; the head makes outputs of them
    (``tasks.backends.encoder.heads``).
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
        self._warm_up = WarmUp(self._loop, short_window(self._model.coder))
        if self._model.tokens is not None:
            self._warm_up.tune(assignment, type(self).__name__)
        self.traits = self._model.traits

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._encode(texts)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def tokens_per_s(self) -> float:
        """Measure for a fraction of a second how fast short windows are computed here."""
        return self._warm_up.tokens_per_s()

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
        """Return the model, the function that computes its states, and the budget.

        A fast encoder computes the states where there is one.
        """
        model, budget = heads.load(assignment, self._dtype), BUDGETS[self._device.partition(":")[0]]
        if model.encoder is not None:
            packed = proven_encoder(model.encoder, self._device, self._dtype, reads_first=model.reads_first)
            if packed is not None:
                model.encoder.to("meta")  # gives its weights back; the packed encoder keeps those that it uses
                return model, packed, replace(budget, packed=True, padding=1.0)
        if reads_padding(model, TOLERANCES[self._dtype]):
            log.info("batches_of_one_length spec=%s", assignment.spec)
            # Words, which stand for the tokens of a model that tokenizes on its own, do not tell equal lengths.
            budget = replace(budget, padding=0.0, rows=1 if model.tokens is None else budget.rows)
        return model, model.own_states, budget


def open_streams(compute: Callable[[Items], Sequence[Output]], budget: Budget) -> Streams:
    """Return as many streams as torch has threads. The products of each run on its own thread only."""
    streams = Streams(compute, budget, torch.get_num_threads())
    streams.on_each_thread(_compute_alone)
    torch.set_num_threads(streams.at_once)  # for the other threads of this process all is as before
    return streams


def _compute_alone() -> None:
    """Let this thread's products run on this thread only: each thread keeps the number that it sets itself."""
    torch.get_num_threads()  # a thread's first question gives it the number of the process, whatever it set before
    torch.set_num_threads(1)
