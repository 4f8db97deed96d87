"""Tokenizers of encoders: on the library `tokenizers` alone, and one that tells where tokens stand in a text."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from tokenizers import Encoding, Tokenizer

from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.errors import CannotServe
from docmill.tasks.windows.windows import Places

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from docmill.tasks.backends.loading import Opening

# The library's names of what models read, by those of transformers.
_FEATURES: Mapping[str, str] = {"input_ids": "ids", "token_type_ids": "type_ids"}
_FACTS = ("padding_side", "pad_token_id", "pad_token_type_id", "unk_token_id", "all_special_ids")
# Special tokens spelt out, scripts and white space that tokenizers treat in their own ways, and no text at all.
_TRIED = ("", "A text.", " Ünïted\u00a0 ﬁve 東京 \u200d🙂\n\tend ", "[CLS] a [SEP] <s> b </s> <pad> [MASK]")


class _Batch(dict[str, list[list[int]]]):
    """The features of some texts by their names, and the library's own encodings."""

    encodings: Sequence[Encoding]


class FastTokenizer:
    """The part of a transformers tokenizer that ``tasks.backends.tokens`` uses, made of a `tokenizer.json`.

    ``facts`` are JSON, as ``facts_of`` gives them.
    """

    def __init__(self, text: str, facts: Mapping[str, Any]) -> None:
        self.backend_tokenizer = Tokenizer.from_str(text)
        self.padding_side: str = facts["padding_side"]
        self.pad_token_id: int | None = facts["pad_token_id"]
        self.pad_token_type_id: int = facts["pad_token_type_id"]
        self.unk_token_id: int | None = facts["unk_token_id"]
        self.all_special_ids: Sequence[int] = facts["all_special_ids"]
        self.model_max_length: int = facts["model_max_length"]
        self._features: Sequence[str] = facts["features"]

    def __call__(
        self,
        texts: Sequence[str],
        seconds: Sequence[str] | None = None,
        *,
        truncation: bool,
        padding: bool,
        return_attention_mask: bool,
        add_special_tokens: bool,
    ) -> _Batch:
        """Return the features of texts, or of pairs of texts. It does not truncate, pad or mask."""
        assert not any((truncation, padding, return_attention_mask))
        inputs = texts if seconds is None else list(zip(texts, seconds, strict=True))
        encodings = self.backend_tokenizer.encode_batch(inputs, add_special_tokens=add_special_tokens)
        batch = _Batch({name: [getattr(text, _FEATURES[name]) for text in encodings] for name in self._features})
        batch.encodings = encodings
        return batch


def facts_of(tokenizer: PreTrainedTokenizerBase, limit: int | None) -> tuple[str, dict[str, Any]] | None:
    """Return a tokenizer as its `tokenizer.json` and its facts as JSON; None if it cannot be made again of them.

    ``limit`` is the most tokens that it states.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.split_special_tokens:
        return None
    own = tokenizer(list(_TRIED), truncation=False, padding=False, return_attention_mask=False)
    if not own.keys() <= _FEATURES.keys():
        return None
    facts = {name: getattr(tokenizer, name) for name in _FACTS}
    facts |= {"model_max_length": limit or int(1e30), "features": [*own]}
    text = backend.to_str()
    again = FastTokenizer(text, facts)(
        _TRIED, truncation=False, padding=False, return_attention_mask=False, add_special_tokens=True
    )
    return (text, facts) if dict(own) == again else None


class PlacedTokens(Tokens):
    """A fast tokenizer that also tells where the tokens of a text stand, for heads that score each token."""

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
