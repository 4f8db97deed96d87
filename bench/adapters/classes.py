"""The classifier: the field of use of a package, from its description.

A section of Debian's archive names a use of software (games), a programming language (python), a desktop (kde), a
part of a package's files (doc, libs) or nothing definite (utils, misc). Only sections of the first kind have a label,
and those of one use share it. The rule is about their meaning, and was set before any score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bench.adapters.corpus import Description, fraction
from bench.adapters.training import Example

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "games": ("games",),
        "science": ("science", "math", "electronics", "education"),
        "media": ("sound", "video", "graphics"),
        "text": ("text", "editors", "tex", "fonts"),
        "network": ("net", "web", "httpd", "mail", "news", "comm", "hamradio"),
        "system": ("admin", "kernel", "shells", "otherosfs"),
        "development": ("devel", "vcs", "database"),
    }
)
LABELS = tuple(GROUPS)
LONGEST_TOKENS = 64
_TRIED = 0.1  # of the train split, which settings are chosen with
_LABEL_OF = {section: label for label, sections in GROUPS.items() for section in sections}


def parts(
    train: Iterable[Description], unseen: Iterable[Description]
) -> tuple[list[Description], list[Description], list[Description]]:
    """Return the descriptions whose section names a use: for training, for choices of settings, and for scores."""
    some: list[Description] = []
    tried: list[Description] = []
    for row in _labelled(train):
        (tried if fraction(f"tried {row.id}") < _TRIED else some).append(row)
    return some, tried, _labelled(unseen)


def _labelled(rows: Iterable[Description]) -> list[Description]:
    return [row for row in rows if row.section in _LABEL_OF]


def label(row: Description) -> str:
    """Return the label of a description that ``parts`` takes."""
    return _LABEL_OF[row.section]


def examples(rows: Iterable[Description], tokenizer: Any) -> list[Example]:
    """Encode the first tokens of descriptions with their labels."""
    return [
        Example(
            dict(tokenizer(row.text, truncation=True, max_length=LONGEST_TOKENS)),
            {"labels": LABELS.index(label(row))},
        )
        for row in rows
    ]


def linear(train: Sequence[Description], unseen: Sequence[Description]) -> list[str]:
    """Return the labels that a linear SVM over TF-IDF of words and pairs of words gives, trained on whole texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LinearSVC(random_state=7))
    model.fit([row.text for row in train], [label(row) for row in train])
    return [str(found) for found in model.predict([row.text for row in unseen])]


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: the texts that only one of two classifiers has right."""
    several = only_first + only_second
    tail = sum(math.comb(several, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, 2.0 * tail / 2.0**several)
