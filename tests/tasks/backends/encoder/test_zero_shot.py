"""A user's labels are scored by an NLI model as transformers' pipeline does, or by the cosine of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.errors import ModelUnsuitable
from tests.tasks import classifiers
from tests.tasks.backends.encoder.test_classification import assert_same, scores_of
from tests.tasks.conftest import Bench, Benches
from tests.tasks.real_lines import half_and_more, real_lines, some_and_more
from tests.tasks.reference import load_sentence_transformer

NLI = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
TOPICS = ["a game", "science and mathematics", "a library of functions"]


@pytest.fixture(scope="session")
def short(descriptions: list[str]) -> list[str]:
    """Return six texts that fit the window of a small model beside a sentence."""
    return real_lines(descriptions, 6, shorter_than=80)


def classify_by_pipeline(folder: Path, texts: Sequence[str], **settings: Any) -> list[list[tuple[str, float]]]:
    """Return each text's labels with their scores, the best first, from transformers' pipeline."""
    with quiet():
        classifier = pipeline("zero-shot-classification", model=str(folder), dtype=torch.float32, device="cpu")
        results = [classifier(text, candidate_labels=TOPICS, **settings) for text in texts]
    return [[*zip(result["labels"], result["scores"], strict=True)] for result in results]


# Pairs with and without types of tokens, and with each way to put the two texts together.
@some_and_more(6, 500)
@half_and_more(["bert", "roberta", "bart", "deberta-v2"])
def test_scores_are_those_of_transformers_for_every_kind_of_pair(
    name: str, count: int, descriptions: list[str], french: list[str], benches: Benches, tmp_path: Path
) -> None:
    short = real_lines([*descriptions, *french], count, shorter_than=80)
    folder = classifiers.classifier(tmp_path / name, short, name, id2label=NLI)
    for backend in ("transformers", *(() if name in classifiers.WHOLE else ("openvino",))):
        bench = benches(backend)
        spec = bench.spec("classify", folder, labels=TOPICS)
        assert_same(bench.run(spec, short), classify_by_pipeline(folder, short))
        assert bench.engine.open(spec)["backend"] == backend


@pytest.mark.parametrize("id2label", [NLI, {0: "entailment", 1: "not_entailment"}, {0: "no", 1: "entailed"}])
def test_several_labels_and_hypotheses_are_those_of_transformers_wherever_entailment_stands(
    id2label: dict[int, str], short: list[str], benches: Benches, tmp_path: Path
) -> None:
    folder = classifiers.classifier(tmp_path / "nli", short, "bert", id2label=id2label)
    bench = benches("transformers")
    hypothesis = "The text is about {}, I think."
    spec = bench.spec("classify", folder, labels=TOPICS, multi_label=True, hypothesis=hypothesis)
    expected = classify_by_pipeline(folder, short, multi_label=True, hypothesis_template=hypothesis)
    assert_same(bench.run(spec, short), expected)


@pytest.mark.parametrize("backend", ["transformers", "openvino"])
def test_an_embedding_model_scores_by_the_cosine_with_a_labels_description(
    backend: str, short: list[str], benches: Benches
) -> None:
    bench = benches(backend)
    topics = {"game": "a game to play", "science": "science and mathematics", "library": "library"}
    spec = bench.spec("classify", "minilm", labels=topics)
    model = load_sentence_transformer(bench.folder(spec))
    of_texts, of_topics = (
        model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        for texts in (short, [*topics.values()])
    )
    for outcome, row in zip(bench.run(spec, short), of_texts @ of_topics.T, strict=True):
        assert dict(scores_of(outcome)) == pytest.approx(dict(zip(topics, row, strict=True)), abs=1e-4)
        assert outcome.text == [*topics][int(row.argmax())]
    assert bench.engine.open(spec)["backend"] == backend


def test_a_model_without_a_head_is_refused_without_labels(bench: Bench) -> None:
    message = r"needs a model with a head for sequence classification, or --labels; minilm \(BertModel\) has none"
    with pytest.raises(ModelUnsuitable, match=message):
        bench.spec("classify", "minilm")
