"""Prompts that were rendered from a document and its metadata: a window each, never cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from storage.core.outcomes import Outcome
from tasks.errors import PromptTooLong
from tasks.kinds.base import Again, Computed, Recipe
from tasks.kinds.generate import Generate
from tasks.windows.windows import Coder, Window


@dataclass(frozen=True)
class Prerendered:
    """Whatever the kind of task: the prompt says what is to be done. Of half of it a model would make nonsense."""

    joining: Recipe = field(default_factory=Generate)

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        """Raises PromptTooLong."""
        encoded = coder.encode(texts)
        longest = max((one.tokens for one in encoded), default=0)
        if longest > coder.limit_tokens:
            raise PromptTooLong(
                f"The prompt has {longest:,} tokens with this document, the model's window {coder.limit_tokens:,}: "
                "without {meta.…} in it a long document is read in parts."
            )
        return [[Window(0, len(text), one)] for text, one in zip(texts, encoded, strict=True)]

    def join(self, computed: Computed) -> Outcome | Again:
        return self.joining.join(computed)
