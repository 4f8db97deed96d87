"""The words and tokens that a GLiNER model reads, without its weights."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from docmill.tasks.errors import CannotServe
from docmill.tasks.models import gliner
from docmill.tasks.windows.windows import Encoded, WordReader, Words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from docmill.storage.core.specs import Spec

# Words that are tokenised at once: a tokenizer takes a hundred times their room.
_PORTION_WORDS = 20_000
# A window has room for so many tokens of a text, at least.
_LEAST_ROOM_TOKENS = 8
Splitter = Callable[[str], Iterable[tuple[str, int, int]]]


@dataclass(frozen=True)
class GlinerCoder:
    """A Coder of texts that the model splits into words and tokenizes by itself."""

    reader: WordReader

    @property
    def limit_tokens(self) -> int:
        return self.reader.limit_tokens

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [Encoded(self.reader.overhead + sum(self.reader.words(text).tokens), text) for text in texts]


def coder_of(
    tokenizer: PreTrainedTokenizerBase, splitter: Splitter, config: Mapping[str, Any], spec: Spec
) -> GlinerCoder:
    """Return the coder of a model under a spec. Raises CannotServe where a window has no room for text."""
    prompt = gliner.prompt(config, labels_of(spec))
    # The library pads and truncates with the model's own tokenizer, which changes it: threads may not share that.
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    overhead = len(own.encode(prompt, is_pretokenized=True).ids)
    limit_tokens = gliner.limit_tokens(config, int(tokenizer.model_max_length), prompt_tokens=overhead)
    if (asked := spec.params.get("window_tokens")) is not None:
        limit_tokens = min(limit_tokens, asked)
    if limit_tokens < overhead + _LEAST_ROOM_TOKENS:
        raise CannotServe(
            f"A window of {limit_tokens} tokens leaves no room for text: {overhead} are taken by the labels and "
            "special tokens. Give fewer or shorter labels, or a larger --window-tokens."
        )
    words = partial(_words, own, splitter, prompt)
    return GlinerCoder(WordReader(words, gliner.max_words(config), limit_tokens, overhead, gliner.max_width(config)))


def labels_of(spec: Spec) -> dict[str, str]:
    """Return the words that the model reads for each label of a spec, in their order."""
    given: Sequence[str | list[str]] = spec.params.get("labels", ())
    return dict((one, one) if isinstance(one, str) else (one[0], one[1]) for one in given)


def _words(tokenizer: Tokenizer, splitter: Splitter, prompt: Sequence[str], text: str) -> Words:
    """Return the words of a text. The prompt comes before each portion, since a first word may have other tokens."""
    parts = list(splitter(text))
    starts, ends = array("q", (start for _, start, _ in parts)), array("q", (end for _, _, end in parts))
    tokens = array("q", bytes(8 * len(parts)))
    for first in range(0, len(parts), _PORTION_WORDS):
        portion = [word for word, _, _ in parts[first : first + _PORTION_WORDS]]
        for number in tokenizer.encode([*prompt, *portion], is_pretokenized=True).word_ids:
            if number is not None and number >= len(prompt):
                tokens[first + number - len(prompt)] += 1
    return Words(starts, ends, tokens)
