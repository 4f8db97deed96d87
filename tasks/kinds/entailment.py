"""Labels by a model of natural language inference: it says whether a text entails a sentence about each label.

A window of the text and a sentence are computed together, as a pair. The scores are those of transformers'
zero-shot-classification.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from storage.core.outcomes import Outcome
from tasks.kinds.base import Again, Computed
from tasks.kinds.label_scores import Combination
from tasks.outputs import Labels, Scale
from tasks.windows.windows import Coder, Window, cut

# The two logits of a pair, by their names in a backend's output.
ENTAILMENT, CONTRADICTION = "entailment", "contradiction"


@dataclass(frozen=True)
class Entailment:
    """``sentences`` has the hypothesis of each label. ``pairs`` gives the coder that puts one after every text.

    With ``multi_label`` each label is scored by itself, by entailment against contradiction; else all labels by
    entailment, against each other. A single label is always scored by itself.
    """

    sentences: Mapping[str, str]
    pairs: Callable[[str], Coder]
    multi_label: bool
    combination: Combination

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        """Windows fit with the longest sentence. Each is there once for each label, one after the other."""
        coders = [self.pairs(sentence) for sentence in self.sentences.values()]
        windows = cut(texts, max(coders, key=lambda one: one.encode([""])[0].tokens))
        pieces = [
            text[window.start : window.end]
            for text, found in zip(texts, windows, strict=True)
            for window in found
            if window.encoded is not None
        ]
        pairs = iter(zip(*(one.encode(pieces) for one in coders), strict=True))
        return [
            [
                replace(window, encoded=encoded)
                for window in found
                for encoded in ((None,) if window.encoded is None else next(pairs))
            ]
            for found in windows
        ]

    def join(self, computed: Computed) -> Outcome | Again:
        logits, tokens = [], []
        for window, output in zip(computed.windows, computed.outputs, strict=True):
            if window.encoded is None:  # only white space
                continue
            assert isinstance(output, Labels)
            logits.append(output.scores)
            tokens.append(window.encoded.tokens)
        each = len(self.sentences)
        starts = range(0, len(logits), each)
        windows = [self._scores(logits[start : start + each]) for start in starts]
        weights = [sum(tokens[start : start + each]) for start in starts]
        return self.combination.outcome(computed, windows, weights, Scale.EACH if self.multi_label else Scale.ONE)

    def _scores(self, logits: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return a window's score for each label, from the logits of its pairs."""
        if self.multi_label or len(logits) == 1:
            shares = [softmax([one[CONTRADICTION], one[ENTAILMENT]])[1] for one in logits]
        else:
            shares = softmax([one[ENTAILMENT] for one in logits])
        return dict(zip(self.sentences, shares, strict=True))


def softmax(logits: Sequence[float]) -> list[float]:
    """Return the probabilities of these logits; NaN for each if one of them is not finite."""
    if not all(math.isfinite(one) for one in logits):
        return [math.nan] * len(logits)
    most = max(logits)
    powers = [math.exp(one - most) for one in logits]
    total = math.fsum(powers)
    return [one / total for one in powers]
