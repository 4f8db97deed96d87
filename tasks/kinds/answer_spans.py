"""The best answers in the scores of a text's tokens, as extractive question answering defines them.

An answer is a span of tokens. Its logit is the start logit of its first token plus the end logit of its last token
(Devlin et al. 2019, section 4.2). The null score is the sum of both logits of the classification token, and stands
for "no answer" (section 4.3). In a long text a span has the highest logit that a window gives it, and the null score
is the lowest of all windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from docmill.tasks.outputs import Output, Spans, SpanScores
from docmill.tasks.windows.windows import Places, Window

ScoredTokens: TypeAlias = tuple[Places, SpanScores]  # of a window, with scores for the same tokens


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """An answer at ``[start, end)`` of the text, with its logit and its probability."""

    start: int
    end: int
    logit: float
    score: float


@dataclass(frozen=True, slots=True)
class Answers:
    """The best answers to a question, the best first, and the null score with its probability.

    The probabilities are a softmax over all answers in the text and "no answer". Without "no answer", the null score
    and its probability are None.
    """

    spans: tuple[AnswerSpan, ...]
    null_logit: float | None
    no_answer: float | None

    def answer(self, threshold: float) -> AnswerSpan | None:
        """Return the best answer; None if the null score is higher by more than the threshold (SQuAD 2.0's rule)."""
        if not self.spans:
            return None
        best = self.spans[0]
        refused = self.null_logit is not None and self.null_logit - best.logit > threshold
        return None if refused else best


def answers_of_backend(computations: Sequence[tuple[Window, Output | None]]) -> Answers:
    """Return the answers that a backend found itself, at places in the window."""
    spans = [
        AnswerSpan(window.start + span.start, window.start + span.end, 0.0, span.score)
        for window, output in computations
        if isinstance(output, Spans)
        for span in output.spans
    ]
    return Answers(tuple(spans[:1]), None, 0.0)


def best_answers(
    text: str, windows: Sequence[ScoredTokens], *, longest: int, count: int, with_null: bool = True
) -> Answers:
    """Return the ``count`` best answers of at most ``longest`` tokens in the windows of a text.

    Answers lose white space at their ends, and must have other characters. Of several answers at the same characters,
    the best remains.
    """
    nulls = [scores.null for _, scores in windows if scores.null is not None]
    null = min(nulls) if nulls and with_null else None
    total = _Total() if null is None else _Total(null, 1.0)
    best: list[tuple[float, int, int]] = []
    for block in _blocks(text, windows, longest):
        total.add(block.logits)
        best = _choose_distinct([*best, *block.best(count)], count)
    spans = tuple(AnswerSpan(start, end, logit, total.share(logit)) for logit, start, end in best)
    return Answers(spans, null, None if null is None else total.share(null))


@dataclass(frozen=True)
class _Block:
    """The logits of the answers that begin at some tokens, of shape (tokens, longest); -inf for no answer.

    The answer at [i, n] begins with token i and ends with token i + n, at the characters ``starts[i]`` to
    ``ends[i + n]``.
    """

    logits: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def best(self, count: int) -> list[tuple[float, int, int]]:
        """Return the best answers at different characters, each (logit, start, end)."""
        logits = self.logits.ravel()
        n_real, taken = int((logits > -np.inf).sum()), count
        while n_real:
            taken = min(taken, n_real)
            least = logits.max() if taken == 1 else np.partition(logits, -taken)[-taken]
            places = np.flatnonzero(logits >= least)  # all equal logits, so that the order does not depend on chance
            rows, lengths = np.divmod(places, self.logits.shape[1])
            chars = self.starts[rows].tolist(), self.ends[rows + lengths].tolist()
            answers = _choose_distinct(list(zip(logits[places].tolist(), *chars, strict=True)), count)
            if len(answers) == count or taken == n_real:
                return answers
            taken *= 2
        return []


@dataclass
class _Total:
    """The sum of the exponentials of logits, relative to the largest logit."""

    most: float = -math.inf
    powers: float = 0.0

    def add(self, logits: npt.NDArray[np.float32]) -> None:
        most = float(logits.max(initial=-np.inf))
        if most > self.most:
            self.powers *= math.exp(self.most - most)
            self.most = most
        if most > -math.inf:
            self.powers += float(np.exp(logits.astype(np.float64) - self.most).sum())

    def share(self, logit: float) -> float:
        return math.exp(logit - self.most) / self.powers


def _choose_distinct(answers: Sequence[tuple[float, int, int]], count: int) -> list[tuple[float, int, int]]:
    """Return the best answers at different characters, the best first. Equal answers are in the order of the text."""
    kept: dict[tuple[int, int], float] = {}
    for logit, start, end in sorted(answers, key=lambda answer: (-answer[0], answer[1], answer[2])):
        kept.setdefault((start, end), logit)
    return [(logit, *place) for place, logit in kept.items()][:count]


def _blocks(text: str, windows: Sequence[ScoredTokens], longest: int) -> Iterator[_Block]:
    """Yield the answers of a text in the order of their first tokens, each once.

    An answer in several windows has its highest logit. Only a part of a long text is in memory.
    """
    carried: npt.NDArray[np.float32] = np.empty((0, longest), np.float32)
    for (places, scores), after in zip_longest(windows, windows[1:]):
        starts, ends = _trim_places(text, places)
        logits = _logits(scores, starts, ends, longest)
        n_carried = len(carried)
        np.maximum(logits[:n_carried], carried, out=logits[:n_carried])
        n_tokens = len(starts)
        done = n_tokens if after is None else max(0, after[0].first - places.first)
        carried = logits[done:]
        # Zeros stand for ends beyond the window, where there are no answers.
        beyond = np.concatenate([ends, np.zeros(longest - 1, np.int64)])
        yield _Block(logits[:done], starts[:done], beyond)


def _logits(
    scores: SpanScores, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], longest: int
) -> npt.NDArray[np.float32]:
    """Return the logit of each answer in a window, of shape (tokens, longest); -inf for no answer."""
    last = np.concatenate([scores.ends, np.full(longest - 1, -np.inf, np.float32)])
    if not len(starts):
        return np.empty((0, longest), np.float32)
    logits = scores.starts[:, None] + sliding_window_view(last, longest)
    if (ends <= starts).any() or (ends[1:] < ends[:-1]).any():  # otherwise each answer ends after its start
        ends_at = np.concatenate([ends, np.full(longest - 1, -1, np.int64)])
        logits[sliding_window_view(ends_at, longest) <= starts[:, None]] = -np.inf
    return np.asarray(logits, np.float32)


def _trim_places(text: str, places: Places) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the start of the answers that begin with each token, and the end of the answers that end with it.

    White space at a token's ends is left out. A token of white space has the start of the next other token, or the
    end of the last other token.
    """
    tokens = [*zip(places.starts, places.ends, strict=True)]
    if all(start < end and not text[start].isspace() and not text[end - 1].isspace() for start, end in tokens):
        return np.asarray(places.starts, np.int64), np.asarray(places.ends, np.int64)
    pieces = [(start, end, text[start:end]) for start, end in tokens]
    starts, ends = [0] * len(pieces), [0] * len(pieces)
    following, at = len(text), len(text)
    for number, (start, end, piece) in reversed([*enumerate(pieces)]):
        if kept := piece.lstrip():
            at = end - len(kept)
        elif gap := text[end:following].lstrip():
            at = following - len(gap)
        starts[number], following = at, start
    before, at = 0, 0
    for number, (start, end, piece) in enumerate(pieces):
        if kept := piece.rstrip():
            at = start + len(kept)
        elif gap := text[before:start].rstrip():
            at = before + len(gap)
        ends[number], before = at, end
    return np.asarray(starts, np.int64), np.asarray(ends, np.int64)
