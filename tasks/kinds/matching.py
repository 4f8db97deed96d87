"""Entities of labels that a user names, from a model that holds labels against the parts of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.core.outcomes import Outcome
from storage.outputs.output_types import SPANS
from tasks.kinds.base import Again, Computed, windowed
from tasks.kinds.confidence import Confidence, least
from tasks.outputs import Spans
from tasks.windows.windows import Coder, Window
from tasks.windows.word_windows import WordReader, cut_at_words, decided


@dataclass(frozen=True)
class Matching:
    """Cuts texts at words into windows that overlap, and takes each entity from the window that knows it best."""

    reader: WordReader

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut_at_words(texts, self.reader)

    def join(self, computed: Computed) -> Outcome | Again:
        found = [
            [(one.label, window.start + one.start, window.start + one.end, one.score) for one in output.spans]
            for window, output in zip(computed.windows, computed.outputs, strict=True)
            if isinstance(output, Spans)
        ]
        spans = decided(computed.windows, found)
        stored = SPANS.stored(computed.text, spans)
        sure = Confidence(least(score for *_, score in spans))
        return computed.done(data=dict(stored.data or {}), flags=windowed(computed.windows), confidence=sure)
