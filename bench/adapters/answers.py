"""The answerer: simple questions about a description, answered by a part of it or by nothing."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from bench.adapters.corpus import Description
from bench.adapters.silver_answers import Asked, questions, subject
from bench.adapters.training import Example

LONGEST_TOKENS = 176
# Questions of the kinds that almost every description answers; of other kinds all are taken.
_MOST = 1_600
_UNANSWERED = 0.5  # for each answered question of a kind


def asked_of(rows: Sequence[Description], seed: int, most: int = _MOST) -> list[Asked]:
    """Return questions about descriptions: at most so many answered ones of a kind, and half as many others."""
    chance = random.Random(seed)
    others = [subject(row) for row in rows]
    by_kind: dict[tuple[str, bool], list[Asked]] = defaultdict(list)
    for row in rows:
        for one in questions(row, chance, others):
            by_kind[one.kind, one.start is not None].append(one)
    found: list[Asked] = []
    for (kind, is_answered), several in sorted(by_kind.items()):
        answered = min(most, len(by_kind[kind, True])) or most
        found += several[: answered if is_answered else max(1, int(answered * _UNANSWERED))]
    return found


def examples(asked: Iterable[Asked], tokenizer: Any) -> list[Example]:
    """Encode questions with their texts; an answer that is cut off leaves its question out."""
    found = []
    for one in asked:
        encoded = tokenizer(
            one.question,
            one.text,
            truncation="only_second",
            max_length=LONGEST_TOKENS,
            return_offsets_mapping=True,
        )
        parts, places = encoded.sequence_ids(), encoded.pop("offset_mapping")
        first = last = 0
        if one.start is not None and one.end is not None:
            inside = [
                number
                for number, (part, (start, end)) in enumerate(zip(parts, places, strict=True))
                if part == 1 and start < one.end and one.start < end
            ]
            if not inside or places[inside[-1]][1] < one.end:
                continue
            first, last = inside[0], inside[-1]
        found.append(Example(dict(encoded), {"start_positions": first, "end_positions": last}))
    return found
