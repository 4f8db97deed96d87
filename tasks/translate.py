"""Translating: paragraph by paragraph, with everything between the paragraphs kept as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.outcomes import Outcome, Status
from tasks.outputs import Generated
from tasks.paragraphs import paragraphs, unwrapped
from tasks.recipes import Again, Computed, windowed
from tasks.windows import Coder, Window, cut


@dataclass(frozen=True)
class Translate:
    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder, sections=paragraphs, clean=unwrapped, trim=True)

    def join(self, computed: Computed) -> Outcome | Again:
        pieces, flags, end = [], set(windowed(computed.windows)), 0
        for window, output in zip(computed.windows, computed.outputs, strict=True):
            pieces.append(computed.text[end : window.start])
            if isinstance(output, Generated):
                pieces.append(output.text)
                if output.truncated:
                    flags.add("output_truncated")
                if not output.text:
                    flags.add("empty_window")
            else:
                pieces.append(computed.text[window.start : window.end])
            end = window.end
        pieces.append(computed.text[end:])
        return Outcome(
            computed.content_id,
            Status.DONE,
            text="".join(pieces),
            flags=tuple(sorted(flags)),
            tokens_in=computed.tokens_in,
            tokens_out=computed.tokens_out,
        )
