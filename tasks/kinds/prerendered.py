"""Prompts that were rendered from a document and its metadata: a window each, never cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from storage.core.outcomes import Outcome
from tasks.kinds.base import Again, Computed, Recipe
from tasks.kinds.generate import Generate, uncut
from tasks.windows.windows import Coder, Window


@dataclass(frozen=True)
class Prerendered:
    """Whatever the kind of task: the prompt says what is to be done. Of half of it a model would make nonsense."""

    joining: Recipe = field(default_factory=Generate)
    advice: str = "Without {meta.…} in it a long document is read in parts."

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        """Raises PromptTooLong."""
        return uncut(texts, coder, self.advice)

    def join(self, computed: Computed) -> Outcome | Again:
        return self.joining.join(computed)
