"""Encoder-decoder models: summaries and translations by transformers' generate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, StoppingCriteriaList, StopStringCriteria

from tasks.backends import Assignment, Source, accelerator
from tasks.backends.decoding import seed_of
from tasks.backends.encoder_decoder.generation import Generation
from tasks.backends.encoder_decoder.searches import shrinking_beams, shrinking_rows
from tasks.backends.generation_files import Opening
from tasks.backends.static import Items, StaticLoop
from tasks.backends.tokens import padded
from tasks.batching.batches import Budget
from tasks.outputs import Output
from tasks.windows.windows import Encoded

# Rows and input tokens of one batch before beams, each of which is one more row for the decoder.
_BUDGETS = {"cpu": Budget(tokens=8192, rows=128), "cuda": Budget(tokens=65_536, rows=1024)}


class Seq2SeqBackend:
    """One encoder-decoder model under one spec."""

    def __init__(self, assignment: Assignment) -> None:
        spec, device = assignment.spec, assignment.device
        self._device = device
        self._dtype = accelerator.dtype_for(spec.quality, device)
        opening = Opening.of(spec, assignment.folder, assignment.cache_dir)
        self._model = opening.model(AutoModelForSeq2SeqLM, self._dtype).to(device)
        self._generation = Generation(opening, self._model.generation_config)
        self.limit_tokens = self._generation.limit_tokens
        beams = self._generation.beams
        settings, self._of_rows = self._generation.settings, self._generation.of_rows
        self._search: dict[str, Any] = {}
        if self._of_rows:
            self._search["custom_generate"] = shrinking_rows if beams == 1 else shrinking_beams
        if stop := settings.stop_strings:
            # Given so, since generate makes none for searches that are not its own.
            self._search["stopping_criteria"] = StoppingCriteriaList([StopStringCriteria(opening.tokenizer, stop)])
            settings.stop_strings = None
        self._samples = bool(settings.do_sample)
        self._seed: int = spec.params.get("seed", 0)
        budget = _BUDGETS[device.partition(":")[0]]
        # In generate's own searches samples depend on all rows, and the end of a text that is stopped is padded.
        alone = not self._of_rows and (self._samples or stop)
        rows = 1 if alone else max(1, budget.rows // beams)
        self._loop = StaticLoop(self._compute, Budget(tokens=budget.tokens // beams, rows=rows))
        self.traits = self._generation.traits

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._generation.tokens.encode(texts)

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def runtime(self) -> dict[str, Any]:
        return accelerator.runtime("transformers", self._device, self._dtype)

    def close(self) -> None:
        del self._model
        accelerator.release(self._device)

    def _compute(self, items: Items) -> Sequence[Output]:
        with torch.inference_mode(), accelerator.memory_errors(self._device), self._drawing(items) as drawing:
            batch = padded([item.encoded for item in items], self._generation.tokens)
            sequences = self._model.generate(
                input_ids=batch["input_ids"].to(self._device),
                attention_mask=batch["attention_mask"].to(self._device),
                **self._search,
                **drawing,
            ).tolist()
        return self._generation.outputs([ids[1:] for ids in sequences])

    @contextmanager
    def _drawing(self, items: Items) -> Iterator[dict[str, Any]]:
        """Draw the samples of each window by the spec's seed and by what the model reads.

        Yields the arguments of generate that this takes.
        """
        if not self._samples:
            yield {}
            return
        seeds = [seed_of(self._seed, item.encoded.ids) for item in items]
        if self._of_rows:
            yield {"generators": [torch.Generator(self._device).manual_seed(seed) for seed in seeds]}
            return
        (seed,) = seeds
        devices = [self._device] if self._device.startswith("cuda") else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield {}
