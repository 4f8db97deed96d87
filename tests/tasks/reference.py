"""Generate with transformers itself, one text at a time, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

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
    """Return the output of a decoder-only model for each input, ``stripped`` of white space at its ends.

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


@lru_cache(maxsize=4)
def _encoder_decoder(folder: Path) -> tuple[Any, Any]:
    with quiet():
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
        return AutoTokenizer.from_pretrained(folder), model


def seq2seq_texts(
    folder: Path,
    inputs: Sequence[str],
    *,
    weights: Path | None = None,
    src_lang: str | None = None,
    stop: str | None = None,
    stripped: bool = True,
    seed: int = 0,
    number: int = 0,
    **settings: Any,
) -> list[str]:
    """Return the outputs of transformers' own generate for each input, all outputs of an input in a row.

    The settings of the folder count. `weights` is a folder that has the same weights under other settings.
    """
    tokenizer, model = _encoder_decoder(weights or folder)
    with quiet():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    if src_lang is not None:
        tokenizer.src_lang = src_lang
    if stop is not None:
        settings |= {"stop_strings": [stop], "tokenizer": tokenizer}
    answers = []
    for text in inputs:
        encoded = tokenizer(text, return_tensors="pt")
        ids = encoded["input_ids"]
        with torch.inference_mode(), quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, ids[0].tolist(), number))
            rows = model.generate(ids, attention_mask=encoded["attention_mask"], **settings)
        for whole in tokenizer.batch_decode(rows, skip_special_tokens=True):
            answer = whole if stop is None else whole.partition(stop)[0]
            answers.append(answer.strip() if stripped else answer)
    return answers
