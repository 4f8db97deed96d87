"""A mask over the next tokens of each row, so that its output is JSON that is valid by the spec's schema."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from docmill.storage.core.outcomes import Reason
from docmill.storage.outputs.output_types import SCHEMA
from docmill.tasks import schemas
from docmill.tasks.backends.generation_files import Opening
from docmill.tasks.errors import CannotServe
from docmill.tasks.outputs import Failure, Generated, Likelihood

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_BITS = 32  # tokens in a word of a mask


class Constraint:
    """The grammar of a spec's records in the tokens of a model. Raises CannotServe where the two do not fit."""

    def __init__(self, schema: str, tokenizer: LLTokenizer) -> None:
        from llguidance import LLExecutor, LLMatcher

        self._tokenizer = tokenizer
        self._vocabulary = tokenizer.vocab_size
        self._start = LLMatcher(tokenizer, schemas.grammar(json.loads(schema)), log_level=0)
        if self._start.is_error():
            raise CannotServe(f"The schema makes no grammar: {_first_line(self._start.get_error())}")
        self._executor = LLExecutor()

    @classmethod
    def of(cls, opening: Opening, ends: Collection[int]) -> Constraint | None:
        """Return the constraint of a spec with a schema; None for another. ``ends`` are tokens that end an output.

        Raises CannotServe for a tokenizer that has no fast form.
        """
        schema = opening.spec.params.get(SCHEMA)
        return None if schema is None else cls(schema, constraint_tokenizer(opening, ends))

    def begin(self) -> LLMatcher:
        """Return the state before the first token."""
        return self._start.deep_copy()

    def masked(self, logits: torch.Tensor, matchers: Sequence[LLMatcher]) -> torch.Tensor:
        """Return logits (rows, vocabulary), float32, with minus infinity for the tokens that may not come next.

        The tensor is changed in place.
        """
        words = np.zeros((len(matchers), -(-self._vocabulary // _BITS)), np.int32)
        numbered = [(matcher, row) for row, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(numbered, words.ctypes.data, words.strides[0], len(words))
        unpacked = unpacked_here if logits.device.type == "cpu" else unpacked_on_device
        forbidden = unpacked(~words, logits.device)
        width = min(logits.shape[1], self._vocabulary)
        logits[:, :width].masked_fill_(forbidden[:, :width], float("-inf"))
        logits[:, width:] = float("-inf")  # rows of the output layer that no token has
        return logits

    def output(
        self, matcher: LLMatcher, written: Sequence[int], likelihood: Likelihood | None = None
    ) -> Generated | Failure:
        """Return the output of a row whose state is at an end: the end of the record, or an error."""
        if matcher.is_error():
            return Failure("The grammar of the schema failed at this output: it may be too large.", Reason.MODEL)
        return record(self._tokenizer, written, likelihood)


def record(tokenizer: LLTokenizer, written: Sequence[int], likelihood: Likelihood | None = None) -> Generated:
    """Return the output of a row that came to the end of its record, byte by byte as the grammar had it."""
    kept = [token for token in written if token not in tokenizer.eos_tokens]
    return Generated(tokenizer.decode_str(kept), len(written), likelihood=likelihood)


def unpacked_here(words: npt.NDArray[np.int32], _device: torch.device) -> torch.Tensor:
    """Return the bits of words (rows, words) as booleans (rows, words × 32), the lowest bit first, on the CPU."""
    bits = np.unpackbits(words.astype("<i4", copy=False).view(np.uint8), axis=1, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))


def unpacked_on_device(words: npt.NDArray[np.int32], device: torch.device) -> torch.Tensor:
    """Return the same on a device, which gets the words: an eighth of the bytes."""
    bits = torch.arange(_BITS, dtype=torch.int32, device=device)
    return ((torch.from_numpy(words).to(device).unsqueeze(-1) >> bits) & 1).bool().flatten(1)


def constraint_tokenizer(opening: Opening, ends: Collection[int]) -> LLTokenizer:
    """Return the model's tokens for llguidance. Raises CannotServe for a tokenizer that has no fast form."""
    from llguidance.hf import from_tokenizer

    try:
        return from_tokenizer(opening.tokenizer, eos_token=sorted(ends) or None)
    except ValueError as error:
        raise CannotServe(
            f"{opening.spec.kind} needs a model with a fast tokenizer. That of {opening.spec.model} does not fit: "
            f"{_first_line(str(error))}"
        ) from error


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]
