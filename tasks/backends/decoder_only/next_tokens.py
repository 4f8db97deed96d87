"""The choice of each row's next token, by transformers' own processors in the order of its ``generate``.

A row has processors and a generator of its own, so that its output does not depend on the rest of the batch. It is
the output of ``generate`` for that text alone, with torch seeded by the row's seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import (
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from docmill.tasks.backends.decoding import Decoding


class Choosing(Protocol):
    """A row whose next token is chosen."""

    @property
    def seen(self) -> list[int]:
        """All tokens so far, those of the prompt first."""

    @property
    def processors(self) -> LogitsProcessorList: ...

    @property
    def generator(self) -> torch.Generator | None: ...


def row_processors(how: Decoding, prompt_tokens: int, device: str) -> LogitsProcessorList:
    """Return the processors that depend on a row's tokens; they get the scores of that row alone."""
    found, ends = LogitsProcessorList(), sorted(how.ends)
    if how.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(how.repetition_penalty))
    if how.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(how.no_repeat_ngram_size))
    if how.bad_words_ids:
        found.append(NoBadWordsLogitsProcessor([list(words) for words in how.bad_words_ids], ends or None))
    if how.min_length and ends:
        found.append(MinLengthLogitsProcessor(how.min_length, ends, device))
    if how.min_new_tokens and ends:
        found.append(MinNewTokensLengthLogitsProcessor(prompt_tokens, how.min_new_tokens, ends, device))
    return found


def batch_processors(how: Decoding, device: str) -> LogitsProcessorList:
    """Return the processors that see the scores of a whole batch, and nothing else. They come after those of rows."""
    found = LogitsProcessorList()
    if how.suppress_tokens:
        found.append(SuppressTokensLogitsProcessor(list(how.suppress_tokens), device))
    if not how.sampled:
        return found
    if how.temperature != 1:
        found.append(TemperatureLogitsWarper(how.temperature))
    if how.top_k:
        found.append(TopKLogitsWarper(how.top_k))
    if how.top_p < 1:
        found.append(TopPLogitsWarper(how.top_p))
    if how.min_p:
        found.append(MinPLogitsWarper(how.min_p))
    return found


def row_generator(how: Decoding, ids: Sequence[int], number: int, device: str) -> torch.Generator | None:
    """Return a generator whose draws follow from the spec's seed and from what the model reads, or None if greedy.

    ``number`` counts the outputs of a window from 0.
    """
    return torch.Generator(device).manual_seed(how.seed_of(ids, number)) if how.sampled else None


def of_rows(logits: torch.Tensor, rows: Sequence[Choosing]) -> torch.Tensor:
    """Return the ``logits`` (rows, vocabulary), float32, as each row's own processors change them."""
    if not any(row.processors for row in rows):
        return logits
    changed = [
        row.processors(torch.tensor([row.seen], device=logits.device), line[None])
        for row, line in zip(rows, logits, strict=True)
    ]
    return torch.cat(changed)


def next_tokens(logits: torch.Tensor, rows: Sequence[Choosing], of_batch: LogitsProcessorList) -> torch.Tensor:
    """Return a token (rows,) for each row of ``logits`` (rows, vocabulary), float32, which may be masked."""
    scores: torch.Tensor = of_batch(None, logits)
    generators = [row.generator for row in rows]
    if all(generator is None for generator in generators):
        return scores.argmax(dim=-1)
    # Each row has a generator of its own, so that no row depends on the rest of its batch: this is the sample of
    # transformers' generate with the row alone and torch's generator in the same state.
    draws = [
        torch.multinomial(line[None], 1, generator=generator)[0]
        for line, generator in zip(scores.softmax(dim=-1), generators, strict=True)
    ]
    return torch.cat(draws)
