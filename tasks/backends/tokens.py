"""A thread-safe tokenizer, and padded batches of tokens."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from docmill.tasks.errors import CannotServe
from docmill.tasks.models import families
from docmill.tasks.windows.windows import LEAST_TEXT_TOKENS, Encoded, Places

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from transformers import BatchEncoding, PretrainedConfig, PreTrainedTokenizerBase

    from docmill.storage.core.specs import Spec

_PORTION_CHARS = 500_000


class Tokens:
    """A transformers tokenizer that puts words before and after every text.

    The words are a ``prefix``, or the function ``frame`` puts them around a text. ``special_tokens`` is False if the
    words have the special tokens, as in a chat template.

    Truncation and padding are turned off once, here. A fast tokenizer then keeps no state between calls, and several
    threads may call it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prefix: str = "",
        *,
        special_tokens: bool = True,
        frame: Callable[[str], str] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.prefix = prefix
        self._frame = frame or prefix.__add__
        self._special_tokens = special_tokens
        self._label: tuple[int, int] | None = None
        self._beside: str | None = None
        self._beside_first = False
        fast = getattr(tokenizer, "backend_tokenizer", None)
        if fast is not None:
            fast.no_truncation()
            fast.no_padding()
        # docmill keeps to the limit. The tokenizer would only log that a text is long.
        limit = tokenizer.model_max_length
        self.stated_limit = int(limit) if limit else None
        tokenizer.model_max_length = int(1e30)
        self.overhead = self.encode([""])[0].tokens

    def framed(self, prefix: str, suffix: str | None = None, trims: tuple[bool, bool] = (True, True)) -> Tokens:
        """Return the tokenizer with other words around every text.

        With a ``suffix``, ``trims`` says if a text loses white space at its beginning and at its end.
        """
        other = copy.copy(self)
        other.prefix = prefix
        other._frame = prefix.__add__ if suffix is None else partial(_frame_text, prefix, suffix, trims)
        other.overhead = other.encode([""])[0].tokens
        return other

    def labeled(self, place: int, token: int) -> Tokens:
        """Return the tokenizer with another special token at a place; a negative place counts from the end."""
        other = copy.copy(self)
        other._label = (place, token)
        return other

    def paired(self, beside: str, *, first: bool = False) -> Tokens:
        """Return the tokenizer with another text beside every text, second or ``first``, as the model reads pairs."""
        other = copy.copy(self)
        other._beside, other._beside_first = beside, first
        other.overhead = other.encode([""])[0].tokens
        return other

    @property
    def pads_right(self) -> bool:
        """True if a padded row begins with the first token of its text."""
        return bool(self.tokenizer.padding_side == "right")

    @property
    def prefix_length(self) -> int:
        """The length of the prefix in tokens, as sentence-transformers counts it: without a last special token."""
        ids = self.encode([""])[0].ids
        return len(ids) - (1 if ids and ids[-1] in self.tokenizer.all_special_ids else 0)

    def checked_limit(self, limit_tokens: int, stated: int | None = None) -> int:
        """Return the window's limit, or the ``stated`` limit if it is lower. Raises CannotServe if no text fits."""
        limit = min(limit_tokens, stated) if stated is not None else limit_tokens
        if limit < self.overhead + LEAST_TEXT_TOKENS:
            raise CannotServe(
                f"A window of {limit} tokens leaves no room for text: the prompt and special tokens take "
                f"{self.overhead}. Give a larger --window-tokens, or none."
            )
        return limit

    def window_limit(self, spec: Spec, config: PretrainedConfig, *others: int | None) -> int:
        """Return the lowest limit that spec, config, tokenizer and ``others`` state. Raises CannotServe."""
        limit = families.window_limit(config.to_dict(), self.stated_limit, *others)
        return self.checked_limit(limit, spec.params.get("window_tokens"))

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Return the tokens of each text as the model reads it. The tokenizer gets some texts at a time."""
        encoded: list[Encoded] = []
        for portion in _split_texts(texts):
            framed, beside = [*map(self._frame, portion)], self._beside
            pair = (framed, None) if beside is None else (framed, [beside] * len(portion))
            features = self.tokenizer(
                *(reversed(pair) if self._beside_first else pair),
                truncation=False,
                padding=False,
                return_attention_mask=False,
                add_special_tokens=self._special_tokens,
            )
            for row, ids in enumerate(features["input_ids"]):
                if self._label is not None:
                    place, token = self._label
                    ids[place] = token
                rows = {name: array("i", features[name][row]) for name in features}
                encoded.append(Encoded(len(ids), rows, places=self._places(features, row, portion[row])))
        return encoded

    def _places(self, features: BatchEncoding, row: int, text: str) -> Places | None:
        """Return None: most tasks need no places of tokens."""
        return None


class PlacedTokens(Tokens):
    """A fast tokenizer with the places of a text's tokens, for heads that score each token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        marks = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        self._marks_words = bool(marks)
        super().__init__(tokenizer)

    def _places(self, features: BatchEncoding, row: int, text: str) -> Places:
        encoding = features.encodings[row]
        real = [number for number, special in enumerate(encoding.special_tokens_mask) if not special]
        if self._beside is not None:
            of_texts, place = encoding.sequence_ids, int(self._beside_first)
            real = [number for number in real if of_texts[number] == place]
        leading = real[0] if real else len(encoding.ids)
        starts, ends, inside = array("i"), array("i"), array("b")
        unknown = self.tokenizer.unk_token_id
        # Each of these attributes makes a new list of all tokens.
        ids, names, offsets = encoding.ids, encoding.tokens, encoding.offsets
        for number in real:
            start, end = offsets[number]
            starts.append(start)
            ends.append(end)
            inside.append(ids[number] != unknown and self._continues_word(names[number], text, start, end))
        return Places(leading, starts, ends, inside)

    def _continues_word(self, token: str, text: str, start: int, end: int) -> bool:
        """Return True for a token that continues a word, as transformers' pipeline guesses it."""
        if self._marks_words:
            return len(token) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]


def require_fast(tokenizer: PreTrainedTokenizerBase, spec: Spec) -> None:
    """Raise CannotServe for a slow tokenizer."""
    if not tokenizer.is_fast:
        raise CannotServe(
            f"{spec.kind} needs a fast tokenizer, which knows the places of tokens in a text; "
            f"{type(tokenizer).__name__} of {spec.model} is slow. Use a model with a tokenizer.json."
        )


@dataclass(frozen=True)
class TokenCoder:
    """A Coder made from a function, such as the coder of a language or of a question."""

    encode: Callable[[Sequence[str]], list[Encoded]]
    limit_tokens: int


def pairs(tokens: Tokens, limit_tokens: int, *, first: bool = False) -> Callable[[str], TokenCoder]:
    """Return the function from a sentence to the coder that puts it after every text, or ``first``."""
    return lambda sentence: TokenCoder(tokens.paired(sentence, first=first).encode, limit_tokens)


def _frame_text(prefix: str, suffix: str, trims: tuple[bool, bool], text: str) -> str:
    at_start, at_end = trims
    text = text.lstrip() if at_start else text
    return prefix + (text.rstrip() if at_end else text) + suffix


def _split_texts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield texts in portions of ``_PORTION_CHARS``: a tokenizer's output takes a hundred times their memory."""
    start = n_chars = 0
    for end, text in enumerate(texts):
        n_chars += len(text)
        if n_chars > _PORTION_CHARS:
            yield texts[start : end + 1]
            start, n_chars = end + 1, 0
    if start < len(texts):
        yield texts[start:]


def padded(encoded: Sequence[Encoded], tokens: Tokens) -> dict[str, torch.Tensor]:
    """Return the arrays of ``padded_arrays`` as tensors."""
    import torch

    return {name: torch.from_numpy(rows) for name, rows in padded_arrays(encoded, tokens).items()}


def padded_arrays(
    encoded: Sequence[Encoded], tokens: Tokens, length: int | None = None
) -> dict[str, npt.NDArray[np.int64]]:
    """Return token features of shape (windows, length), with the attention mask, padded as by the tokenizer.

    Without a ``length``, it is that of the longest window.
    """
    tokenizer = tokens.tokenizer
    fill = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    longest = max(window.tokens for window in encoded) if length is None else length
    batch: dict[str, npt.NDArray[np.int64]] = {}
    first = encoded[0].features
    assert not isinstance(first, str)
    for name in (*first, "attention_mask"):
        rows = np.full((len(encoded), longest), fill.get(name, 0), dtype=np.int64)
        for row, window in zip(rows, encoded, strict=True):
            place = slice(0, window.tokens) if tokens.pads_right else slice(longest - window.tokens, None)
            row[place] = 1 if name == "attention_mask" else np.asarray(window.feature(name))
        batch[name] = rows
    return batch
