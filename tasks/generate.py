"""Generating: a template over the document; a document that is longer than the model's window in several parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.outcomes import Outcome, Status
from tasks.outputs import Generated
from tasks.recipes import Again, Computed, windowed
from tasks.windows import Coder, Window, cut

BETWEEN = "\n\n"


@dataclass(frozen=True)
class Generate:
    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        """The outputs of the windows, with a blank line between them."""
        parts = [output for output in computed.outputs if isinstance(output, Generated)]
        flags = list(windowed(computed.windows))
        if any(part.truncated for part in parts):
            flags.append("output_truncated")
        if empty := sum(not part.text for part in parts):
            flags.append("empty" if empty == len(parts) else "empty_window")
        return Outcome(
            computed.content_id,
            Status.DONE,
            text=BETWEEN.join(part.text for part in parts if part.text),
            flags=tuple(flags),
            tokens_in=computed.tokens_in,
            tokens_out=computed.tokens_out,
        )
