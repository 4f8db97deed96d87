"""A run with a default model advises other models where they fit better."""

from __future__ import annotations

import pytest

from docmill.tasks import kinds
from docmill.worker.jobs.submission import describe_default_model


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
