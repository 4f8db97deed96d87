"""A run with a default model advises other models where they fit better."""

from __future__ import annotations

import pytest

from docmill.tasks import kinds
from docmill.worker.jobs.submission import describe_default_model
from tests.worker.harness import EXAMPLES


@pytest.mark.parametrize(
    ("task", "options", "named"),
    [
        ("summarize", {}, ("facebook/bart-large-cnn", "google/pegasus-xsum")),
        ("translate", {"source_lang": "auto"}, ("Helsinki-NLP/opus-mt-mul-en", "facebook/m2m100_418M")),
    ],
)
def test_a_run_over_other_texts_names_two_models_that_fit(
    task: str, options: dict[str, str], named: tuple[str, str]
) -> None:
    sentence = describe_default_model(task, "news.jsonl", kinds.options(task, **options))
    assert "knows little but" in sentence
    for model in named:
        assert f"--model {model}" in sentence


@pytest.mark.parametrize(
    ("task", "source"), [("summarize", str(EXAMPLES / "descriptions.jsonl")), ("embed", "news.jsonl")]
)
def test_nothing_is_advised_for_the_examples_or_where_the_default_model_fits(task: str, source: str) -> None:
    assert "knows little but" not in describe_default_model(task, source, kinds.options(task))


def test_labels_of_ones_own_are_for_the_embedding_model_and_not_for_the_classifier() -> None:
    classify = kinds.kind("classify")
    assert classify.model_for(kinds.options("classify")) == "classes-ddtp"
    labels = kinds.options("classify", labels="sports, politics")
    assert classify.model_for(labels) == "minilm"
    assert (
        describe_default_model("classify", "news.jsonl", labels)
        == "Using the demo model minilm. Choose another with --model."
    )
