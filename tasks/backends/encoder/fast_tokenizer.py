"""A fast tokenizer on the library `tokenizers` alone, from what transformers made of a model's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Encoding, Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FEATURES: Mapping[str, str] = {"input_ids": "ids", "token_type_ids": "type_ids"}
# Special tokens spelt out, scripts and white space that tokenizers treat in their own ways, and no text at all.
_TRIED = ("", "A text.", " Ünïted\u00a0 ﬁve 東京 \u200d🙂\n\tend ", "[CLS] a [SEP] <s> b </s> <pad> [MASK]")


@dataclass(frozen=True)
class Facts:
    """The facts about a tokenizer beside its `tokenizer.json`. ``features`` are the names that a model reads."""

    features: tuple[str, ...]
    padding_side: str
    pad_token_id: int | None
    pad_token_type_id: int
    unk_token_id: int | None
    all_special_ids: tuple[int, ...]
    model_max_length: int


class Batch(dict[str, list[list[int]]]):
    """The features of some texts by their names, and the library's own encodings."""

    def __init__(self, encodings: Sequence[Encoding], features: Sequence[str]) -> None:
        super().__init__({name: [getattr(one, _FEATURES[name]) for one in encodings] for name in features})
        self.encodings = encodings


class FastTokenizer:
    """The part of a transformers tokenizer that ``tasks.backends.tokens`` uses."""

    is_fast = True

    def __init__(self, backend: Tokenizer, facts: Facts) -> None:
        self.backend_tokenizer = backend
        self.padding_side = facts.padding_side
        self.pad_token_id = facts.pad_token_id
        self.pad_token_type_id = facts.pad_token_type_id
        self.unk_token_id = facts.unk_token_id
        self.all_special_ids = facts.all_special_ids
        self.model_max_length = facts.model_max_length
        self._features = facts.features

    def __call__(
        self,
        texts: Sequence[str],
        seconds: Sequence[str] | None = None,
        *,
        truncation: bool,
        padding: bool,
        return_attention_mask: bool,
        add_special_tokens: bool,
    ) -> Batch:
        """Return the features of texts, or of pairs of texts. It does not truncate, pad or mask."""
        assert not any((truncation, padding, return_attention_mask))
        given = texts if seconds is None else list(zip(texts, seconds, strict=True))
        return Batch(
            self.backend_tokenizer.encode_batch(given, add_special_tokens=add_special_tokens), self._features
        )


def kept(tokenizer: PreTrainedTokenizerBase, limit: int | None) -> tuple[str, dict[str, Any]] | None:
    """Return a tokenizer as its `tokenizer.json` and its facts as JSON; None if it cannot be made again of them.

    ``limit`` is the most tokens that it states.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.split_special_tokens:
        return None
    given = tokenizer(list(_TRIED), truncation=False, padding=False, return_attention_mask=False)
    if not given.keys() <= _FEATURES.keys():
        return None
    facts = Facts(
        tuple(given),
        tokenizer.padding_side,
        tokenizer.pad_token_id,
        tokenizer.pad_token_type_id,
        tokenizer.unk_token_id,
        tuple(tokenizer.all_special_ids),
        limit or int(1e30),
    )
    text = backend.to_str()
    again = FastTokenizer(Tokenizer.from_str(text), facts)(
        _TRIED, truncation=False, padding=False, return_attention_mask=False, add_special_tokens=True
    )
    return (text, asdict(facts)) if dict(given) == again else None


def again(text: str, facts: Mapping[str, Any]) -> FastTokenizer:
    """Return the tokenizer that was ``kept``."""
    lists = {"features": tuple(facts["features"]), "all_special_ids": tuple(facts["all_special_ids"])}
    return FastTokenizer(Tokenizer.from_str(text), Facts(**{**facts, **lists}))
