"""Outputs of the libraries themselves, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.decoding import seed_of


def load_sentence_transformer(folder: Path) -> SentenceTransformer:
    """Return the model of a folder, opened by sentence-transformers."""
    with quiet():
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def mean_states(folder: Path, texts: Sequence[str]) -> Any:
    """Return the mean of each text's last hidden states, by transformers."""
    with quiet(), torch.inference_mode():
        model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
        return torch.stack([model(input_ids=row).last_hidden_state[0].mean(0) for row in ids]).numpy()


def generate_texts(
    folder: Path,
    inputs: Sequence[str],
    *,
    model: Any = None,
    raw: bool = False,
    stop: str | None = None,
    stripped: bool = False,
    seed: int = 0,
    number: int = 0,
    **settings: Any,
) -> list[str]:
    """Return the text that transformers' generate writes for each input, one at a time.

    The model is the folder's decoder-only model or ``model``. Its chat template is used unless ``raw``. With
    ``do_sample``, torch is seeded for each input and for the ``number`` of the output. ``stripped`` removes white
    space at the ends.
    """
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = model or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chat = tokenizer.chat_template is not None and not raw
    answers = []
    for text in inputs:
        messages = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) if chat else text
        encoded = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat)
        with torch.inference_mode(), quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, encoded["input_ids"][0].tolist(), number))
            ids = model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                **{"do_sample": False, **settings},
            )
        begin = 0 if model.config.is_encoder_decoder else encoded["input_ids"].shape[1]
        answer = tokenizer.decode(ids[0, begin:], skip_special_tokens=True)
        answer = answer if stop is None else answer.partition(stop)[0]
        answers.append(answer.strip() if stripped else answer)
    return answers


@lru_cache(maxsize=4)
def _encoder_decoder(folder: Path) -> tuple[Any, Any]:
    with quiet():
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
        return AutoTokenizer.from_pretrained(folder), model


def write_seq2seq(
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
    """Return the texts that transformers' generate writes for each input with an encoder-decoder, one at a time.

    Several outputs of an input follow each other. The generation settings are those of ``folder``; ``weights`` is
    another folder with the same weights, which may be loaded already.
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
