"""Score the adapters' outputs, as docmill computes them, on descriptions that no training saw."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.adapters import classes
from bench.adapters.corpus import Description
from bench.adapters.entities import LabelledText
from bench.adapters.silver_answers import Question
from bench.adapters.silver_entities import LABELS, UNSURE
from docmill.storage.core.specs import Outcome
from docmill.tasks import kinds
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec

WAIT_S = 1_200.0
_QUESTION = {"a": "{meta.question}"}  # each document brings its question


def compute_outcomes(kind: str, adapter: Path, texts: Sequence[str], *, dtype: str, **options: Any) -> list[Outcome]:
    """Return the outcomes of MiniLM with an adapter, on transformers in float32 and on OpenVINO in int8."""
    backend = "transformers" if dtype == "float32" else "openvino"
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        folders = ModelFolders(None, cache)
        engine = Engine(partial(open_backend, device="cpu", folders=folders, backend=backend))
        engine.start()
        try:
            pinned, config = pinning.pin_with_adapter("minilm", str(adapter), folders)
            spec = build_spec(kind, pinned, kinds.options(kind, dtype=dtype, **options), config)
            ticket = engine.submit(spec, list(enumerate(texts)))
            assert ticket.wait(WAIT_S)
            return ticket.finished()
        finally:
            engine.close()


def score_entities(
    adapter: Path, texts: Sequence[LabelledText], known: frozenset[tuple[str, str]], aggregation: str, dtype: str
) -> dict[str, Any]:
    """Return precision and recall of whole entities in percent, and the recall of known and of new names.

    ``known`` has the names in the training texts. Unsure entities, and predictions that overlap them, do not count.
    """
    n_correct: Counter[str] = Counter()
    n_predicted: Counter[str] = Counter()
    n_true: Counter[str] = Counter()
    contents = [text.description.text for text in texts]
    outcomes = compute_outcomes("entities", adapter, contents, dtype=dtype, aggregation=aggregation)
    for text, outcome in zip(texts, outcomes, strict=True):
        assert outcome.data is not None
        unsure = [entity for entity in text.entities if entity.label == UNSURE]
        is_known_by_span = {
            (entity.label, entity.start, entity.end): text.get_name(entity) in known
            for entity in text.entities
            if entity not in unsure
        }
        predicted = {(span["label"], span["start"], span["end"]) for span in outcome.data["spans"]}
        predicted = {
            (label, start, end)
            for label, start, end in predicted
            if not any(start < entity.end and entity.start < end for entity in unsure)
        }
        for span, is_known in is_known_by_span.items():
            for group in (span[0], "known" if is_known else "new"):
                n_true[group] += 1
                n_correct[group] += span in predicted
        n_predicted.update(label for label, *_ in predicted)
    rows = {label: _compute_rates(n_correct[label], n_predicted[label], n_true[label]) for label in LABELS}
    totals = [sum(counter[label] for label in LABELS) for counter in (n_correct, n_predicted, n_true)]
    recalls = {
        group: {"recall": _compute_percent(n_correct[group], n_true[group]), "n": n_true[group]}
        for group in ("known", "new")
    }
    return {"texts": len(texts), "all": _compute_rates(*totals), "labels": rows, "names": recalls}


def score_answers(adapter: Path, questions: Sequence[Question], dtype: str) -> dict[str, Any]:
    """Return the share of exact answers and the F1 of their words in percent, by kind and by answered or not."""
    scores: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    # docmill stores a document with its own question as the question, a line break and the text.
    contents = [f"{question.wording}\n{question.text}" for question in questions]
    outcomes = compute_outcomes("answer", adapter, contents, dtype=dtype, question=_QUESTION)
    for question, outcome in zip(questions, outcomes, strict=True):
        assert outcome.data is not None
        expected = question.text[question.start : question.end] if question.start is not None else ""
        answer = outcome.data["data"]["a"] or ""
        scores.setdefault((question.kind, bool(expected)), []).append(_score_answer(answer, expected))
    return {
        name: _average([pair for (_, answered), pairs in scores.items() if answered is flag for pair in pairs])
        for name, flag in (("answered", True), ("unanswered", False))
    } | {
        "kinds": {
            f"{kind} {'answered' if flag else 'unanswered'}": _average(scores[kind, flag])
            for kind, flag in sorted(scores)
        }
    }


def score_classes(
    adapter: Path, train: Sequence[Description], descriptions: Sequence[Description], dtype: str
) -> dict[str, Any]:
    """Return the accuracy in percent, beside that of TF-IDF with a linear SVM trained on the same descriptions."""
    true_labels = [classes.get_label(description) for description in descriptions]
    outcomes = compute_outcomes("classify", adapter, [description.text for description in descriptions], dtype=dtype)
    labels = [(outcome.data or {})["labels"][0]["label"] for outcome in outcomes]
    svm_labels = classes.predict_with_svm(train, descriptions)
    correct = [label == true for label, true in zip(labels, true_labels, strict=True)]
    svm_correct = [label == true for label, true in zip(svm_labels, true_labels, strict=True)]
    only_adapter = sum(adapter_is and not svm_is for adapter_is, svm_is in zip(correct, svm_correct, strict=True))
    only_svm = sum(svm_is and not adapter_is for adapter_is, svm_is in zip(correct, svm_correct, strict=True))
    p = round(classes.compute_mcnemar_p(only_adapter, only_svm), 4)
    return {
        "n": len(descriptions),
        "accuracy": _compute_percent(sum(correct), len(descriptions)),
        "labels": {
            label: _compute_rates(
                sum(output == true == label for output, true in zip(labels, true_labels, strict=True)),
                labels.count(label),
                true_labels.count(label),
            )
            for label in classes.LABELS
        },
        "tf-idf": {"n_train": len(train), "accuracy": _compute_percent(sum(svm_correct), len(descriptions))},
        "mcnemar": {"only_adapter": only_adapter, "only_tf-idf": only_svm, "p": p},
    }


def _score_answer(answer: str, expected: str) -> tuple[float, float]:
    """Return the exact match of the words (1 or 0) and their F1. SQuAD's scores ignore articles, and these do not."""
    words, expected_words = (re.findall(r"\w+", text.lower()) for text in (answer, expected))
    is_equal = float(words == expected_words)
    if not words or not expected_words:
        return is_equal, is_equal
    n_shared = sum((Counter(words) & Counter(expected_words)).values())
    return is_equal, 2 * n_shared / (len(words) + len(expected_words))


def _average(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    exact, f1 = (round(100 * sum(values) / max(1, len(values)), 1) for values in zip(*pairs, strict=True))
    return {"exact": exact, "f1": f1, "n": len(pairs)}


def _compute_rates(n_correct: int, n_predicted: int, n_true: int) -> dict[str, float]:
    f1 = 2 * n_correct / max(1, n_predicted + n_true)
    return {
        "precision": _compute_percent(n_correct, n_predicted),
        "recall": _compute_percent(n_correct, n_true),
        "f1": round(100 * f1, 1),
        "n": n_true,
    }


def _compute_percent(part: int, whole: int) -> float:
    return round(100 * part / max(1, whole), 1)
