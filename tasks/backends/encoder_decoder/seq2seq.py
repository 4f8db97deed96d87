"""Encoder-decoder models: summaries and translations by transformers' generate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, StoppingCriteriaList, StopStringCriteria

from tasks.backends import Assignment, Source, accelerator
from tasks.backends.decoding import seed_of
from tasks.backends.encoder_decoder.generation import Generation
from tasks.backends.encoder_decoder.searches import shrinking_beams, shrinking_rows
from tasks.backends.generation_files import Opening
from tasks.backends.log_probabilities import Written
from tasks.backends.static import Items, StaticLoop
from tasks.backends.tokens import padded
from tasks.batching import Budget, Item
from tasks.outputs import Output, grouped
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
        self._repeats = self._samples and beams == 1
        each = self._generation.n if self._repeats else beams
        rows = 1 if alone else max(1, budget.rows // each)
        self._loop = StaticLoop(self._compute, Budget(tokens=max(1, budget.tokens // each), rows=rows))
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
        n = self._generation.n
        # Each sample of a window is a row of its own; a search by beams returns several outputs by itself.
        windows = [(item, number) for item in items for number in range(n if self._repeats else 1)]
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            # Samples of generate's own search depend on all rows of a batch.
            batches = [windows] if self._of_rows or not self._repeats else [[one] for one in windows]
            written = [one for batch in batches for one in self._written(batch)]
        return grouped(self._generation.outputs(written), n)

    def _written(self, windows: Sequence[tuple[Item[Any], int]]) -> list[Written]:
        """Return the outputs for windows, each with its number, without the token that they begin with.

        Generate's own search keeps nothing of the probabilities: all logits of all steps would be gigabytes.
        """
        batch = padded([item.encoded for item, _ in windows], self._generation.tokens)
        with self._drawing(windows) as drawing:
            found = self._model.generate(
                input_ids=batch["input_ids"].to(self._device),
                attention_mask=batch["attention_mask"].to(self._device),
                **self._search,
                **drawing,
            )
        outputs = found if self._of_rows else [Written(ids) for ids in found.tolist()]
        return [replace(one, ids=one.ids[1:]) for one in outputs]

    @contextmanager
    def _drawing(self, windows: Sequence[tuple[Item[Any], int]]) -> Iterator[dict[str, Any]]:
        """Draw the samples of each window by the spec's seed and by what the model reads.

        Yields the arguments of generate that this takes.
        """
        if not self._samples:
            yield {}
            return
        seeds = [seed_of(self._seed, item.encoded.ids, number) for item, number in windows]
        if self._of_rows:
            yield {"generators": [torch.Generator(self._device).manual_seed(seed) for seed in seeds]}
            return
        (seed,) = seeds
        devices = [self._device] if self._device.startswith("cuda") else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield {}
