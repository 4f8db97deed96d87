"""Generate with transformers itself and a decoder-only model, one text at a time, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.decoding import seed_of


def written(
    folder: Path,
    inputs: Sequence[str],
    *,
    chat: bool,
    stop: str | None = None,
    stripped: bool = False,
    seed: int = 0,
    number: int = 0,
    **settings: Any,
) -> list[str]:
    """Return the output of transformers' own generate for each input, ``stripped`` of white space at its ends.

    Samples, with ``do_sample``, are drawn after torch was seeded for the input, and for the ``number`` of the output.
    """
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for text in inputs:
        asked = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) if chat else text
        encoded = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat)
        with torch.inference_mode(), quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, encoded["input_ids"][0].tolist(), number))
            ids = model.generate(
                encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                **{"do_sample": False, **settings},
            )
        answer = tokenizer.decode(ids[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        answer = answer if stop is None else answer.partition(stop)[0]
        answers.append(answer.strip() if stripped else answer)
    return answers
