"""Encoder-decoder models on transformers' own ``generate``, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import EncoderDecoderCache

from docmill.tasks.backends import Assignment, WindowSource, accelerator
from docmill.tasks.backends.decoding import seed_of
from docmill.tasks.backends.encoder_decoder.generation import Generation, Written
from docmill.tasks.backends.loading import Opening
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.backends.tokens import padded
from docmill.tasks.batching import Budget
from docmill.tasks.outputs import Output, group_outputs
from docmill.tasks.windows.windows import Encoded

# Rows and input tokens of a batch; the decoder has a row for each beam. generate computes all rows until the last
# search has ended, which costs more on a CPU than small batches (bench/results/beams.md).
_BUDGETS = {"cpu": Budget(tokens=8192, rows=16), "cuda": Budget(tokens=65_536, rows=1024)}
# The most logits in memory while outputs are scored.
_MOST_LOGITS = 1 << 26


def _reorder_cache(cache: EncoderDecoderCache, rows: torch.Tensor) -> EncoderDecoderCache:
    """Reorder the decoder's states for the beams of a step, without a copy of the encoder's states.

    All beams of a text share the encoder's states.
    """
    cache.self_attention_cache.reorder_cache(rows)
    return cache


class Seq2SeqBackend:
    """One encoder-decoder model under one spec."""

    def __init__(self, assignment: Assignment) -> None:
        spec, device = assignment.spec, assignment.device
        self._device = device
        self._dtype = accelerator.dtype_for(spec.quality, device)
        opening = Opening.of(assignment)
        self._model = opening.model(self._dtype).to(device)
        self._model._reorder_cache = _reorder_cache
        self._generation = Generation(opening, self._model.generation_config)
        self.limit_tokens = self._generation.limit_tokens
        beams = self._generation.beams
        self._samples = bool(self._generation.settings.do_sample)
        self._seed: int = spec.params.get("seed", 0)
        # A beam search returns several outputs at once; samples are drawn one after the other.
        self._draws = self._generation.n if self._samples and beams == 1 else 1
        budget = _BUDGETS[device.partition(":")[0]]
        # The samples of generate depend on all rows of a batch.
        rows = 1 if self._samples else max(1, budget.rows // beams)
        self._loop = StaticLoop(self._compute, Budget(tokens=max(1, budget.tokens // beams), rows=rows))
        self.traits = self._generation.traits

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._generation.tokens.encode(texts)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def runtime(self) -> dict[str, Any]:
        return accelerator.runtime("transformers", self._device, self._dtype)

    def close(self) -> None:
        del self._model
        accelerator.release(self._device)

    def _compute(self, items: Items) -> Sequence[Output]:
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            written = [output for number in range(self._draws) for output in self._write(items, number)]
        return group_outputs(self._generation.outputs(written), self._generation.n)

    def _write(self, items: Items, number: int) -> list[Written]:
        """Return the outputs for windows; ``number`` counts the samples of a window from 0."""
        tokens = self._generation.tokens
        batch = padded([item.encoded for item in items], tokens)
        read = {name: batch[name].to(self._device) for name in ("input_ids", "attention_mask")}
        devices = [self._device] if self._device.startswith("cuda") else []
        with torch.random.fork_rng(devices, enabled=self._samples):
            if self._samples:  # seeded by the spec and the window's tokens
                (item,) = items
                torch.manual_seed(seed_of(self._seed, item.encoded.ids, number))
            ids = self._model.generate(**read, tokenizer=tokens.tokenizer)
        scores = self._scores(read, ids).tolist()
        return [self._generation.written(*row) for row in zip(ids[:, 1:].tolist(), scores, strict=True)]

    def _scores(self, read: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of outputs without their start tokens, (outputs, tokens), in float32.

        They equal transformers' ``compute_transition_scores`` from ``output_logits`` with ``normalize_logits``,
        before any processor changes them. The model reads its outputs once more, since the logits of all beams and
        steps would take gigabytes.
        """
        vocabulary = self._model.get_output_embeddings().weight.shape[0]
        each = len(ids) // len(read["input_ids"])
        windows = torch.arange(len(ids), device=ids.device) // each
        most = max(1, _MOST_LOGITS // (vocabulary * ids.shape[1]))
        scores = []
        for start in range(0, len(ids), most):
            outputs = ids[start : start + most]
            own = {name: rows[windows[start : start + most]] for name, rows in read.items()}
            logits = self._model(**own, decoder_input_ids=outputs[:, :-1], use_cache=False).logits
            scores.append(logits.float().log_softmax(dim=-1).gather(-1, outputs[:, 1:, None])[..., 0])
        return torch.cat(scores)
