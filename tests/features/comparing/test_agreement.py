"""Measures of agreement of two jobs, held against scikit-learn and by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from docmill.features.comparing.agreement import (
    AGREEMENTS,
    LabelAgreement,
    RecordAgreement,
    SpanAgreement,
    Sureness,
    TextAgreement,
    WeightAgreement,
    word_overlap,
)
from docmill.features.comparing.comparison import ComparedDocument, find_neighborhoods
from docmill.storage.outputs.output_types import OUTPUT_TYPES


def labeled(label: str) -> dict[str, Any]:
    return {"labels": [{"label": label, "score": 0.9}, {"label": "other", "score": 0.1}]}


def spans(*places: tuple[str, int, int]) -> dict[str, Any]:
    return {"spans": [{"label": label, "start": start, "end": end, "score": 0.5} for label, start, end in places]}


def test_every_type_of_output_has_a_measure() -> None:
    assert AGREEMENTS.keys() == {output.name for output in OUTPUT_TYPES}


def test_kappa_is_that_of_scikit_learn_over_all_documents() -> None:
    chance = random.Random(1)
    ones = [chance.choice("abc") for _ in range(200)]
    others = [label if chance.random() < 0.7 else chance.choice("abc") for label in ones]
    measure = LabelAgreement()
    same = [measure.add(labeled(label), labeled(other)) for label, other in zip(ones, others, strict=True)]
    measures = measure.measures()
    assert measures["cohens_kappa"] == pytest.approx(cohen_kappa_score(ones, others))
    assert measures["equal_best_label"] == pytest.approx(sum(same) / 200)


def test_kappa_of_one_label_alone_is_not_known() -> None:
    measure = LabelAgreement()
    measure.add(labeled("a"), labeled("a"))
    assert measure.measures() == {"equal_best_label": 1.0, "cohens_kappa": None}
    assert LabelAgreement().measures() == {"equal_best_label": None, "cohens_kappa": None}


def test_texts_are_identical_or_share_words() -> None:
    assert word_overlap("The cat sat", "the CAT stood up") == pytest.approx(2 * 2 / 7)
    assert word_overlap("", "") == 1.0
    assert word_overlap("a", "") == 0.0
    measure = TextAgreement()
    assert measure.add({"text": "same"}, {"text": "same"})
    assert not measure.add({"text": "a b"}, {"text": "b c"})
    assert measure.measures() == {"identical": 0.5, "word_overlap": 0.75}


def test_spans_have_one_f1_over_all_documents() -> None:
    measure = SpanAgreement()
    assert measure.add(spans(), spans())
    assert not measure.add(spans(("PER", 0, 3), ("LOC", 5, 9)), spans(("PER", 0, 3), ("ORG", 5, 9), ("LOC", 11, 12)))
    assert measure.measures() == {"identical": 0.5, "span_f1": pytest.approx(2 / 5)}


def test_records_have_a_share_of_equal_properties_and_one_for_each() -> None:
    measure = RecordAgreement()
    measure.add({"data": {"title": "A", "year": 1999}}, {"data": {"title": "A", "year": 2000}})
    measure.add({"data": {"title": "B"}}, {"data": {"title": "B", "year": None}})
    measures = measure.measures()
    assert measures == {"identical": 0.0, "equal_properties": 0.5, "equal title": 1.0, "equal year": 0.0}


def test_weights_are_compared_by_their_cosine() -> None:
    measure = WeightAgreement()
    measure.add({"weights": [{"token": "a", "weight": 3.0}]}, {"weights": [{"token": "a", "weight": 1.0}]})
    measure.add({"weights": [{"token": "a", "weight": 3.0}]}, {"weights": [{"token": "b", "weight": 1.0}]})
    assert measure.measures() == {"identical": 0.0, "cosine": pytest.approx(0.5)}


def test_flags_are_counted_once_a_result_and_confidence_only_where_it_is_known() -> None:
    sure = Sureness()
    sure.add({"flags": ["windowed", "windowed"], "confidence": 0.5})
    sure.add({"flags": []})
    assert (sure.n, dict(sure.flags), sure.mean_confidence) == (2, {"windowed": 1}, 0.5)
    assert Sureness().mean_confidence is None


def test_neighbours_are_those_of_a_comparison_with_everything_whatever_the_pages() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((40, 8)).astype("<f4"), rng.standard_normal((40, 5)).astype("<f4")
    pairs = [ComparedDocument(n, f"k{n}", n, {"vector": a[n]}, {"vector": b[n]}) for n in range(40)]
    lacking = ComparedDocument(99, "k99", 99, {"vector": a[0]}, None)

    def nearest(vectors: Any, n: int) -> list[int]:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return [int(other) for other in np.argsort(-(unit @ unit[n])) if other != n][:10]

    pages = [[lacking, *pairs[:7]], pairs[7:30], pairs[30:]]
    for neighborhood in find_neighborhoods(pairs[:5], pages):
        truth = nearest(a, neighborhood.document_id), nearest(b, neighborhood.document_id)
        assert (list(neighborhood.a), list(neighborhood.b)) == truth
        assert neighborhood.recall == len({*truth[0]} & {*truth[1]}) / 10
    assert find_neighborhoods([], pages) == []


def test_a_document_of_several_windows_is_as_near_as_its_nearest_window() -> None:
    east, north = np.array([1, 0], "<f4"), np.array([0, 1], "<f4")
    split = np.array([[0, 1], [1, 0.1]], "<f4")
    middle = np.array([1, 1], "<f4")
    pairs = [
        ComparedDocument(n, f"k{n}", n, {"vector": v}, {"vector": v})
        for n, v in enumerate((east, split, middle, north))
    ]
    [neighborhood] = find_neighborhoods(pairs[:1], [pairs])
    assert neighborhood.a == (1, 2, 3)
