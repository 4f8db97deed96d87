"""Scores of the adapters on descriptions that no training saw, as docmill computes them."""

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
from bench.adapters.entities import Labelled
from bench.adapters.silver_answers import Asked
from bench.adapters.silver_entities import LABELS, UNSURE
from docmill.storage.core.specs import Outcome
from docmill.tasks import kinds
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec

WAIT_S = 1_200.0
_OWN = {"a": "{meta.question}"}


def computed(kind: str, adapter: Path, texts: Sequence[str], *, dtype: str, **options: Any) -> list[Outcome]:
    """Return the outcomes of MiniLM with an adapter: by transformers in float32, by OpenVINO in int8."""
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


def of_entities(
    adapter: Path, texts: Sequence[Labelled], known: frozenset[tuple[str, str]], aggregation: str, dtype: str
) -> dict[str, Any]:
    """Return precision and recall of whole entities in percent, also of names that no training text has.

    ``known`` has the names in the training texts. Entities of which the silver labels are not sure count nowhere.
    """
    right: Counter[str] = Counter()
    found: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    each = [one.row.text for one in texts]
    outcomes = computed("entities", adapter, each, dtype=dtype, aggregation=aggregation)
    for text, outcome in zip(texts, outcomes, strict=True):
        assert outcome.data is not None
        unsure = [one for one in text.entities if one.label == UNSURE]
        sure = {
            (one.label, one.start, one.end): text.name(one) in known for one in text.entities if one not in unsure
        }
        given = {(one["label"], one["start"], one["end"]) for one in outcome.data["spans"]}
        given = {one for one in given if not any(one[1] < far.end and far.start < one[2] for far in unsure)}
        for place, is_known in sure.items():
            for counted in (place[0], "known" if is_known else "new"):
                wanted[counted] += 1
                right[counted] += place in given
        found.update(label for label, *_ in given)
    rows = {label: _rates(right[label], found[label], wanted[label]) for label in LABELS}
    whole = [sum(counter[label] for label in LABELS) for counter in (right, found, wanted)]
    recalls = {
        group: {"recall": _percent(right[group], wanted[group]), "n": wanted[group]} for group in ("known", "new")
    }
    return {"texts": len(texts), "all": _rates(*whole), "labels": rows, "names": recalls}


def of_answers(adapter: Path, asked: Sequence[Asked], dtype: str) -> dict[str, Any]:
    """Return exact answers and the F1 of their words in percent, by kind and by answered or not."""
    results: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    # A document with a question of its own is stored as both.
    contents = [f"{one.question}\n{one.text}" for one in asked]
    outcomes = computed("answer", adapter, contents, dtype=dtype, question=_OWN)
    for one, outcome in zip(asked, outcomes, strict=True):
        assert outcome.data is not None
        wanted = one.text[one.start : one.end] if one.start is not None else ""
        results.setdefault((one.kind, bool(wanted)), []).append(_closeness(outcome.data["data"]["a"] or "", wanted))
    return {
        name: _mean([pair for (_, answered), pairs in results.items() if answered is flag for pair in pairs])
        for name, flag in (("answered", True), ("unanswered", False))
    } | {
        "kinds": {
            f"{kind} {'answered' if flag else 'unanswered'}": _mean(results[kind, flag])
            for kind, flag in sorted(results)
        }
    }


def of_classes(
    adapter: Path, train: Sequence[Description], texts: Sequence[Description], dtype: str
) -> dict[str, Any]:
    """Return the accuracy in percent, beside that of TF-IDF with a linear SVM trained on the same descriptions."""
    wanted = [classes.label(row) for row in texts]
    outcomes = computed("classify", adapter, [row.text for row in texts], dtype=dtype)
    given = [(one.data or {})["labels"][0]["label"] for one in outcomes]
    right = [label == true for label, true in zip(given, wanted, strict=True)]
    other = [label == true for label, true in zip(classes.linear(train, texts), wanted, strict=True)]
    only = [sum(one and not two for one, two in zip(*pair, strict=True)) for pair in ((right, other), (other, right))]
    return {
        "n": len(texts),
        "accuracy": _percent(sum(right), len(texts)),
        "labels": {
            label: _rates(
                sum(one == two == label for one, two in zip(given, wanted, strict=True)),
                given.count(label),
                wanted.count(label),
            )
            for label in classes.LABELS
        },
        "tf-idf": {"n_train": len(train), "accuracy": _percent(sum(other), len(texts))},
        "mcnemar": {"only_adapter": only[0], "only_tf-idf": only[1], "p": round(classes.mcnemar(*only), 4)},
    }


def _closeness(given: str, wanted: str) -> tuple[float, float]:
    """Return whether the words are the same, and their F1, as SQuAD scores answers."""
    first, second = (re.findall(r"\w+", text.lower()) for text in (given, wanted))
    shared = sum((Counter(first) & Counter(second)).values())
    if not first or not second:
        return float(first == second), float(first == second)
    return float(first == second), 2 * shared / (len(first) + len(second))


def _mean(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    exact, f1 = (round(100 * sum(values) / max(1, len(values)), 1) for values in zip(*pairs, strict=True))
    return {"exact": exact, "f1": f1, "n": len(pairs)}


def _rates(right: int, found: int, wanted: int) -> dict[str, float]:
    f1 = 2 * right / max(1, found + wanted)
    return {
        "precision": _percent(right, found),
        "recall": _percent(right, wanted),
        "f1": round(100 * f1, 1),
        "n": wanted,
    }


def _percent(part: int, whole: int) -> float:
    return round(100 * part / max(1, whole), 1)
