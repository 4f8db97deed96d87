"""Labels that a decoder-only model finds likely: the probability with which it writes each after a prompt.

The log-probability of a label is the sum of those of its tokens and of the end after it: any of the model's end
tokens, or after a base model's pattern the line's end, too. It is not divided by the length: the score of a label,
the softmax of these sums over all labels, is the probability that the model writes this label, given that it writes
one of them (the scoring by likelihood of Brown et al. 2020, section 2.4, without a normalisation by length).

The prompts of a batch are read once. Each label is read after all of them, over the same keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from docmill.tasks.backends import Assignment, Source, accelerator
from docmill.tasks.backends.decoder_only.causal import CausalBackend, Flight
from docmill.tasks.backends.decoder_only.instructed import Completion
from docmill.tasks.backends.generation_files import Opening
from docmill.tasks.backends.static import Computed, Items, StaticLoop
from docmill.tasks.batching import Budget
from docmill.tasks.kinds import LINE_END
from docmill.tasks.outputs import Labels, Output

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Logits of all tokens of a label are on the device at once for each row.
_BUDGETS = {"cpu": Budget(tokens=8_192, rows=16), "cuda": Budget(tokens=65_536, rows=64)}
# The words before a label in a base model's pattern, after which it is tokenised.
_BEFORE = "\nLabel:"


def label_completion(opening: Opening) -> Completion:
    """Return the prompts of a spec with labels; a window leaves room for the longest. Raises CannotServe."""
    longest = max(len(ids) for ids in label_ids(opening.tokenizer, opening.spec.params["labels"]).values())
    spec = replace(opening.spec, params={**opening.spec.params, "max_new_tokens": longest + 1})
    return Completion(replace(opening, spec=spec))


def label_ids(tokenizer: PreTrainedTokenizerBase, labels: Iterable[str]) -> dict[str, list[int]]:
    """Return the tokens with which the model writes each label: as its answer, or after the pattern and a space."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def of(label: str) -> list[int]:
        if tokenizer.chat_template is not None:
            return ids(label)
        before, whole = ids(_BEFORE), ids(f"{_BEFORE} {label}")
        return whole[len(before) :] if whole[: len(before)] == before else ids(f" {label}")

    return {label: of(label) for label in labels}


class LikelihoodBackend(CausalBackend):
    """One decoder-only model under one spec with labels."""

    def __init__(self, assignment: Assignment) -> None:
        super().__init__(assignment)
        tokenizer = self._completion.tokens.tokenizer
        self._labels = label_ids(tokenizer, assignment.spec.params["labels"])
        line_end = tokenizer(LINE_END, add_special_tokens=False)["input_ids"][-1:]
        ends = {*self._decoding.ends, *(() if tokenizer.chat_template is not None else line_end)}
        self._ends = torch.tensor(sorted(ends), dtype=torch.long, device=self._device)
        self._loop = StaticLoop(self._together, _BUDGETS[self._device.partition(":")[0]])

    def run(self, source: Source) -> Iterator[Computed]:
        return self._loop.run(source)

    def _completed(self, opening: Opening) -> Completion:
        return label_completion(opening)

    def _together(self, items: Items) -> Sequence[Output]:
        with torch.inference_mode(), accelerator.memory_errors(self._device):
            flight, logits = self._begin(items)
            first = torch.log_softmax(logits, dim=-1)
            sums = [self._log_probability(flight, first, ids) for ids in self._labels.values()]
            scores = torch.stack(sums, dim=1).double().softmax(dim=1).tolist()
        return [Labels(dict(zip(self._labels, row, strict=True))) for row in scores]

    def _log_probability(self, flight: Flight, first: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Return the log-probability of a label after each row, shape (rows,). ``first`` has those of all tokens."""
        assert flight.cache is not None
        lengths = torch.tensor([row.tokens + len(ids) for row in flight.rows])
        rows = torch.tensor([ids] * len(flight.rows))
        later = torch.log_softmax(self._logits(flight.cache, rows, lengths, len(ids)), dim=-1)
        flight.cache.shorten(len(ids))
        total = first[:, ids[0]]
        for place, token in enumerate(ids[1:]):
            total = total + later[:, place, token]
        return total + later[:, -1, self._ends].logsumexp(dim=-1) if len(self._ends) else total
