"""Encoder-decoder models: summaries and translations by transformers' generate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from storage.specs import Spec
from tasks import families
from tasks.backends import Source, accelerator, dialects
from tasks.backends.convert import safe_folder
from tasks.backends.static import Items, StaticLoop
from tasks.backends.tokens import Tokens, padded
from tasks.batches import Budget
from tasks.outputs import Generated, Output
from tasks.recipes import Traits
from tasks.windows import Encoded

# Rows and input tokens of one batch before beams, each of which is one more row for the decoder.
_BUDGETS = {"cpu": Budget(tokens=8192, rows=128), "cuda": Budget(tokens=65_536, rows=1024)}
# Ours, where neither the command nor the model's files say how much to write.
_MAX_NEW_TOKENS = 256
_TASK_PARAMETERS = frozenset(
    {"max_length", "min_length", "num_beams", "length_penalty", "no_repeat_ngram_size", "early_stopping"}
)


class Seq2SeqBackend:
    """One encoder-decoder model under one spec."""

    def __init__(self, spec: Spec, folder: Path, *, device: str, cache_dir: Path) -> None:
        self._device = device
        self._dtype = accelerator.dtype_for(spec.quality, device)
        folder = safe_folder(folder, spec.revision, cache_dir)
        with accelerator.quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            families.require(spec.kind, config.to_dict(), spec.model)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._model = AutoModelForSeq2SeqLM.from_pretrained(
                folder, dtype=self._dtype, use_safetensors=True, trust_remote_code=False
            )
        self._model.to(device).eval()
        dialect = dialects.dialect(spec, config.to_dict(), tokenizer)
        self._tokens = Tokens(tokenizer, prefix=dialect.prefix)
        self._limit_tokens = self._tokens.checked_limit(
            families.window_limit(config.to_dict(), self._tokens.stated_limit), spec.params.get("window_tokens")
        )
        set_generation(self._model.generation_config, spec, dialect)
        generation = self._model.generation_config
        self._most_new_tokens = generation.max_new_tokens or generation.max_length - 1
        ends = generation.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])
        beams = generation.num_beams or 1
        budget = _BUDGETS[device.partition(":")[0]]
        self._loop = StaticLoop(
            self._compute, Budget(tokens=budget.tokens // beams, rows=max(1, budget.rows // beams))
        )
        self.traits = Traits()

    @property
    def limit_tokens(self) -> int:
        return self._limit_tokens

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._tokens.encode(texts)

    def run(self, source: Source) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def runtime(self) -> dict[str, Any]:
        return accelerator.runtime("transformers", self._device, self._dtype)

    def close(self) -> None:
        del self._model
        accelerator.release(self._device)

    def _compute(self, items: Items) -> Sequence[Output]:
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            batch = padded([item.encoded for item in items], self._tokens)
            sequences = self._model.generate(
                input_ids=batch["input_ids"].to(self._device),
                attention_mask=batch["attention_mask"].to(self._device),
            ).tolist()
        texts = self._tokens.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        return [self._generated(text, ids) for text, ids in zip(texts, sequences, strict=True)]

    def _generated(self, text: str, ids: Sequence[int]) -> Generated:
        """The text, and how many tokens the model wrote: all but the start token and the padding."""
        written = ids[1:]
        tokens = next((place + 1 for place, token in enumerate(written) if token in self._ends), len(written))
        # At the limit, a forced end looks like an end of the model's own.
        return Generated(text.strip(), tokens, truncated=tokens >= self._most_new_tokens)


def set_generation(generation: Any, spec: Spec, dialect: dialects.Dialect) -> None:
    """Set how the model writes: the command's parameters, then the model's own, then those its config keeps
    for the task, then ours. Changes the model's own object, since generate() fills every gap from it."""
    for name, value in dialect.parameters.items():
        if name in _TASK_PARAMETERS and getattr(generation, name, None) is None:
            setattr(generation, name, value)
    if dialect.forced_bos_token_id is not None:
        generation.forced_bos_token_id = dialect.forced_bos_token_id
    if (beams := spec.params.get("beams")) is not None:
        generation.num_beams = beams
        if beams == 1:
            generation.early_stopping = None
            generation.length_penalty = None
    asked = spec.params.get("max_new_tokens")
    if asked is None and generation.max_length is None and generation.max_new_tokens is None:
        asked = _MAX_NEW_TOKENS
    if asked is not None:
        generation.max_new_tokens = asked
        generation.max_length = None
        if generation.min_length is not None:
            generation.min_length = min(generation.min_length, asked)
        if generation.min_new_tokens is not None:
            generation.min_new_tokens = min(generation.min_new_tokens, asked)
