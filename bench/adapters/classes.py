"""Make the classifier's examples: the use of a package, from its description.

A section of Debian's archive names a use of software (games), a programming language (python), a desktop (kde), a
part of a package's files (doc, libs) or nothing definite (utils, misc). Only sections of the first kind have a label.
Sections for the same use share one. We chose the labels by the meaning of the sections, before any score was known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bench.adapters.corpus import Description, hash_to_fraction
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
_TRIED_SHARE = 0.1  # of the train split; settings are chosen by the scores on it
_LABEL_OF = {section: label for label, sections in GROUPS.items() for section in sections}


def split_labelled(
    train: Iterable[Description], dev: Iterable[Description]
) -> tuple[list[Description], list[Description], list[Description]]:
    """Return the descriptions that have a label: for training, for choosing settings, and for scores."""
    trained: list[Description] = []
    tried: list[Description] = []
    for description in _select_labelled(train):
        is_tried = hash_to_fraction(f"tried {description.id}") < _TRIED_SHARE
        (tried if is_tried else trained).append(description)
    return trained, tried, _select_labelled(dev)


def _select_labelled(descriptions: Iterable[Description]) -> list[Description]:
    return [description for description in descriptions if description.section in _LABEL_OF]


def get_label(description: Description) -> str:
    """Return the label of a description. Raises KeyError if its section has none."""
    return _LABEL_OF[description.section]


def encode_examples(descriptions: Iterable[Description], tokenizer: Any) -> list[Example]:
    """Encode the first tokens of descriptions with their labels."""
    return [
        Example(
            dict(tokenizer(description.text, truncation=True, max_length=LONGEST_TOKENS)),
            {"labels": LABELS.index(get_label(description))},
        )
        for description in descriptions
    ]


def predict_with_svm(train: Sequence[Description], descriptions: Sequence[Description]) -> list[str]:
    """Return the labels by a linear SVM, trained on whole texts. It takes TF-IDF of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LinearSVC(random_state=7))
    model.fit([description.text for description in train], [get_label(description) for description in train])
    return [str(label) for label in model.predict([description.text for description in descriptions])]


def compute_mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    ``only_first`` is the number of texts that only the first of two classifiers got right, ``only_second`` the number
    that only the second got right.
    """
    total = only_first + only_second
    tail = sum(math.comb(total, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, 2.0 * tail / 2.0**total)
