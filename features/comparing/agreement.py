"""Measures of the agreement of two jobs' results, taken document by document in flat memory."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Result = Mapping[str, Any]  # an output in its JSON form
Measures = dict[str, float | None]  # None where nothing tells
_WORDS = re.compile(r"\w+")


@dataclass
class Agreement(ABC):
    """Compares results of one output type. Counts the documents, and those with identical results."""

    n: int = 0
    identical: int = 0

    def add(self, a: Result, b: Result) -> bool:
        """Add the results of a document. Return True if they are the same."""
        same = self.compare(a, b)
        self.n += 1
        self.identical += same
        return same

    @abstractmethod
    def compare(self, a: Result, b: Result) -> bool:
        """Update the measures of this output type. Return True if the results are the same."""

    def measures(self) -> Measures:
        """Return the measures of all documents so far. Each is from 0 to 1, except kappa, which may be below 0."""
        return {"identical": share(self.identical, self.n)}


@dataclass
class TextAgreement(Agreement):
    """Identical texts, and the mean overlap of words: the F1 of their multisets, in lower case."""

    overlap: float = 0.0

    def compare(self, a: Result, b: Result) -> bool:
        same = a["text"] == b["text"]
        self.overlap += 1.0 if same else word_overlap(a["text"] or "", b["text"] or "")
        return bool(same)

    def measures(self) -> Measures:
        return {**super().measures(), "word_overlap": share(self.overlap, self.n)}


def word_overlap(a: str, b: str) -> float:
    """Return the F1 of two texts' words with their counts: 1 for the same words in any order."""
    words_a, words_b = (Counter(_WORDS.findall(text.lower())) for text in (a, b))
    return f1((words_a & words_b).total(), words_a.total(), words_b.total())


@dataclass
class LabelAgreement(Agreement):
    """Equal best labels, and Cohen's kappa: the agreement beyond that by chance."""

    labels_a: Counter[str] = field(default_factory=Counter)
    labels_b: Counter[str] = field(default_factory=Counter)

    def compare(self, a: Result, b: Result) -> bool:
        label_a, label_b = _best(a), _best(b)
        self.labels_a[label_a] += 1
        self.labels_b[label_b] += 1
        return label_a == label_b

    def measures(self) -> Measures:
        return {"equal_best_label": share(self.identical, self.n), "cohens_kappa": self._kappa()}

    def _kappa(self) -> float | None:
        """Return kappa; None if both jobs gave only one label, so that all agreement may be by chance."""
        if len(self.labels_a | self.labels_b) < 2:
            return None
        by_chance = sum(n * self.labels_b[label] for label, n in self.labels_a.items()) / self.n**2
        return (self.identical / self.n - by_chance) / (1 - by_chance)


def _best(result: Result) -> str:
    labels = result["labels"]
    return str(labels[0]["label"]) if labels else ""


@dataclass
class SpanAgreement(Agreement):
    """The F1 of spans over all documents: those with the same label, start and end."""

    both: int = 0
    of_a: int = 0
    of_b: int = 0

    def compare(self, a: Result, b: Result) -> bool:
        spans_a, spans_b = ({(s["label"], s["start"], s["end"]) for s in result["spans"]} for result in (a, b))
        self.both += len(spans_a & spans_b)
        self.of_a += len(spans_a)
        self.of_b += len(spans_b)
        return spans_a == spans_b

    def measures(self) -> Measures:
        return {**super().measures(), "span_f1": f1(self.both, self.of_a, self.of_b) if self.n else None}


@dataclass
class RecordAgreement(Agreement):
    """Equal properties of records, as a share of the properties that either record has."""

    equal: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)

    def compare(self, a: Result, b: Result) -> bool:
        data_a, data_b = a["data"], b["data"]
        for name in data_a.keys() | data_b.keys():
            self.seen[name] += 1
            self.equal[name] += name in data_a and name in data_b and data_a[name] == data_b[name]
        return bool(data_a == data_b)

    def measures(self) -> Measures:
        of_each: Measures = {f"equal {name}": share(self.equal[name], n) for name, n in sorted(self.seen.items())}
        return {**super().measures(), "equal_properties": share(self.equal.total(), self.seen.total()), **of_each}


@dataclass
class WeightAgreement(Agreement):
    """The mean cosine of the documents' token weights."""

    cosine: float = 0.0

    def compare(self, a: Result, b: Result) -> bool:
        weights_a, weights_b = ({w["token"]: w["weight"] for w in result["weights"]} for result in (a, b))
        lengths = math.hypot(*weights_a.values()) * math.hypot(*weights_b.values())
        product = sum(weight * weights_b.get(token, 0.0) for token, weight in weights_a.items())
        self.cosine += product / lengths if lengths else float(weights_a == weights_b)
        return weights_a == weights_b

    def measures(self) -> Measures:
        return {**super().measures(), "cosine": share(self.cosine, self.n)}


class Vectors(Agreement):
    """Identical vectors. Vectors of two models are compared by their neighbors (`features.comparing.comparison`)."""

    def compare(self, a: Result, b: Result) -> bool:
        import numpy as np

        return a["vector"].shape == b["vector"].shape and bool(np.array_equal(a["vector"], b["vector"]))


AGREEMENTS: Mapping[str, type[Agreement]] = {
    "text": TextAgreement,
    "redacted": TextAgreement,
    "labels": LabelAgreement,
    "spans": SpanAgreement,
    "record": RecordAgreement,
    "weights": WeightAgreement,
    "vector": Vectors,
}


@dataclass
class Sureness:
    """The flags and the confidence of one job's results."""

    n: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    confidences: int = 0
    confidence: float = 0.0

    def add(self, result: Result) -> None:
        """Add a result."""
        self.n += 1
        self.flags.update({*result["flags"]})
        if result.get("confidence") is not None:
            self.confidences += 1
            self.confidence += result["confidence"]

    @property
    def mean_confidence(self) -> float | None:
        """The mean over the results that have a confidence."""
        return share(self.confidence, self.confidences)


def share(part: float, whole: float) -> float | None:
    """Return the share of a part in a whole; None if the whole is 0."""
    return part / whole if whole else None


def f1(both: int, of_a: int, of_b: int) -> float:
    """Return the F1 of two sets from their sizes and the size of their intersection; 1 if both are empty."""
    return 2 * both / (of_a + of_b) if of_a + of_b else 1.0
