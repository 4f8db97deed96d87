"""Make the answerer's examples: simple questions about a description, which a part of it answers, or nothing."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from bench.adapters.corpus import Description
from bench.adapters.silver_answers import Question, find_subject, make_questions
from bench.adapters.training import Example

LONGEST_TOKENS = 176
# The limit of answered questions of a kind. Only kinds that almost every description answers reach it.
_MAX_ANSWERED = 1_600
_UNANSWERED_SHARE = 0.5  # unanswered questions for each answered question of a kind


def select_questions(
    descriptions: Sequence[Description], seed: int, max_answered: int = _MAX_ANSWERED
) -> list[Question]:
    """Return questions: for each kind, at most ``max_answered`` that are answered, and half as many that are not."""
    generator = random.Random(seed)
    subjects = [find_subject(description) for description in descriptions]
    by_kind: dict[tuple[str, bool], list[Question]] = defaultdict(list)
    for description in descriptions:
        for question in make_questions(description, generator, subjects):
            by_kind[question.kind, question.start is not None].append(question)
    selected: list[Question] = []
    for (kind, is_answered), questions in sorted(by_kind.items()):
        n_answered = min(max_answered, len(by_kind[kind, True])) or max_answered
        selected += questions[: n_answered if is_answered else max(1, int(n_answered * _UNANSWERED_SHARE))]
    return selected


def encode_examples(questions: Iterable[Question], tokenizer: Any) -> list[Example]:
    """Encode questions with their texts. Leave out a question if its answer is cut off."""
    examples = []
    for question in questions:
        encoded = tokenizer(
            question.wording,
            question.text,
            truncation="only_second",
            max_length=LONGEST_TOKENS,
            return_offsets_mapping=True,
        )
        parts, offsets = encoded.sequence_ids(), encoded.pop("offset_mapping")
        first = last = 0
        if question.start is not None and question.end is not None:
            answer_tokens = [
                number
                for number, (part, (start, end)) in enumerate(zip(parts, offsets, strict=True))
                if part == 1 and start < question.end and question.start < end
            ]
            if not answer_tokens or offsets[answer_tokens[-1]][1] < question.end:
                continue
            first, last = answer_tokens[0], answer_tokens[-1]
        examples.append(Example(dict(encoded), {"start_positions": first, "end_positions": last}))
    return examples
