"""A tokenizer that tells where its tokens stand in a text, for heads that score each token."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Self

from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.errors import CannotServe
from docmill.tasks.windows.windows import Places

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from docmill.tasks.backends.generation_files import Opening


class PlacedTokens(Tokens):
    """A fast tokenizer that also tells where the tokens of a text stand."""

    @classmethod
    def of(cls, opening: Opening) -> Self:
        """Return the tokenizer of a model. Raises CannotServe for a slow tokenizer."""
        if not opening.tokenizer.is_fast:
            raise CannotServe(
                f"{opening.spec.kind} needs a fast tokenizer, which tells where tokens stand in a text; "
                f"{type(opening.tokenizer).__name__} of {opening.spec.model} is a slow one. Use a model with a "
                "tokenizer.json."
            )
        return cls(opening.tokenizer)

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        marks = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        self._marks_words = bool(marks)
        super().__init__(tokenizer)

    def _places(self, features: BatchEncoding, row: int, text: str) -> Places:
        encoding = features.encodings[row]
        real = [number for number, special in enumerate(encoding.special_tokens_mask) if not special]
        if (of_text := self._place_in_pair) is not None:
            of_texts = encoding.sequence_ids
            real = [number for number in real if of_texts[number] == of_text]
        leading = real[0] if real else len(encoding.ids)
        starts, ends, inside = array("i"), array("i"), array("b")
        unknown = self.tokenizer.unk_token_id
        # Each of these attributes makes a new list of all tokens.
        ids, names, offsets = encoding.ids, encoding.tokens, encoding.offsets
        for number in real:
            start, end = offsets[number]
            starts.append(start)
            ends.append(end)
            inside.append(ids[number] != unknown and self._goes_on(names[number], text, start, end))
        return Places(leading, starts, ends, inside)

    def _goes_on(self, token: str, text: str, start: int, end: int) -> bool:
        """Return True for a token that goes on with a word, as transformers' pipeline guesses it."""
        if self._marks_words:
            return len(token) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]
