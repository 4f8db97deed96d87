"""Count the tokens that a served model reads: by its tokenizer if the spec names one, or by an estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from docmill.tasks.errors import CannotServe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Bytes of UTF-8 for each token. In English and most other languages, tokens of current models are longer, so a window
# that fits by this estimate fits the model.
BYTES_PER_TOKEN = 3
_MESSAGE_TOKENS = 8  # in a chat template around each message
_SPECIAL_TOKENS = 2  # around a text that is embedded


class Counter(Protocol):
    """Counts of tokens, safe to call from any thread."""

    def of_text(self, text: str) -> int:
        """Return the tokens of a text, with the special tokens around it."""

    def of_messages(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Return the tokens of chat messages, with those of the chat template around them."""


class Estimate:
    """Counts by the bytes of a text."""

    def of_text(self, text: str) -> int:
        return _SPECIAL_TOKENS + _estimated(text)

    def of_messages(self, messages: Sequence[Mapping[str, Any]]) -> int:
        return sum(_MESSAGE_TOKENS + _estimated(str(one["content"])) for one in messages)


class Tokenizer:
    """Counts by a tokenizer. Without a chat template, or if it fails, the tokens around messages are estimated."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from docmill.tasks.backends.tokens import Tokens

        self._template = tokenizer if tokenizer.chat_template is not None else None
        self._whole, self._bare = Tokens(tokenizer), Tokens(tokenizer, special_tokens=False)

    def of_text(self, text: str) -> int:
        return self._whole.encode([text])[0].tokens

    def of_messages(self, messages: Sequence[Mapping[str, Any]]) -> int:
        if (shown := self._shown(messages)) is not None:
            return self._bare.encode([shown])[0].tokens
        contents = self._bare.encode([str(one["content"]) for one in messages])
        return sum(_MESSAGE_TOKENS + one.tokens for one in contents)

    def _shown(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """Return what the model reads for messages; None where no template says it."""
        if self._template is None:
            return None
        try:
            return str(self._template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception:  # a template raises what it likes, and the server may have another
            return None


def counter(folder: Path | None, name: str | None) -> Counter:
    """Return counts by the tokenizer in a folder, which users know by its name, or an estimate without one.

    Raises CannotServe for a tokenizer that transformers cannot read.
    """
    if folder is None:
        return Estimate()
    from transformers import AutoTokenizer

    from docmill.tasks.backends import accelerator

    try:
        with accelerator.quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever the library raises on files that it cannot read
        reason = " ".join(str(error).split())[:300]
        raise CannotServe(f"The tokenizer {name} cannot be read: {type(error).__name__}: {reason}") from error
    return Tokenizer(tokenizer)


def _estimated(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)
