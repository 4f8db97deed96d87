"""Call CTranslate2 directly, as its users do. This module does not import torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2

VOCABULARY = 58_101  # the size of Marian's, whose last token is padding
NEW_TOKENS = 32  # that every text gets


def load_translator(converted: Path, dtype: str) -> Any:
    """Load a converted model, with a thread for each core."""
    cores = len(os.sched_getaffinity(0))
    return ctranslate2.Translator(
        str(converted), compute_type=dtype, inter_threads=cores, intra_threads=1, max_queued_batches=-1
    )


def translate(translator: Any, tokenizer: Any, beams: int, size: int, sources: Sequence[str]) -> int:
    """Translate texts, and return the number of tokens written.

    CTranslate2 sorts the texts by length into batches of at most `size`.
    """
    # The vocabulary of the converted model has token ids as its words.
    ids_as_words = [list(map(str, ids)) for ids in tokenizer(list(sources))["input_ids"]]
    results = translator.translate_batch(
        ids_as_words,
        max_batch_size=size,
        beam_size=beams,
        min_decoding_length=NEW_TOKENS,
        max_decoding_length=NEW_TOKENS,
        suppress_sequences=[[str(VOCABULARY - 1)]],
    )
    outputs = [[int(word) for word in result.hypotheses[0]] for result in results]
    tokenizer.batch_decode(outputs, skip_special_tokens=True)
    return sum(map(len, outputs))
