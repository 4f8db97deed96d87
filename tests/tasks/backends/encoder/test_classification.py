"""Classifiers give the scores of transformers' own pipeline in float32, one text at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from docmill.storage.core.specs import Outcome
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder import own_code
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder.openvino_backend import OpenVinoBackend
from docmill.tasks.errors import CannotServe
from docmill.tasks.outputs import Head
from docmill.tasks.windows.windows import Encoded
from tests.tasks import classifiers
from tests.tasks.conftest import Bench, Benches, data_of
from tests.tasks.real_lines import half_and_more, real_lines, some_and_more


def classify_by_pipeline(folder: Path, texts: Sequence[str], **settings: Any) -> list[list[tuple[str, float]]]:
    """Return each text's labels with their scores, the best first, from transformers' pipeline."""
    with quiet():
        classifier = pipeline("text-classification", model=str(folder), dtype=torch.float32, device="cpu")
        return [[(row["label"], row["score"]) for row in classifier(text, top_k=None, **settings)] for text in texts]


def scores_of(outcome: Outcome) -> list[tuple[str, float]]:
    return [(row["label"], row["score"]) for row in data_of(outcome)["labels"]]


def assert_same(outcomes: Sequence[Outcome], expected_scores: Sequence[Sequence[tuple[str, float]]]) -> None:
    for outcome, expected_row in zip(outcomes, expected_scores, strict=True):
        actual_row = scores_of(outcome)
        assert [score for _, score in actual_row] == pytest.approx([score for _, score in expected_row], abs=1e-4)
        assert dict(actual_row) == pytest.approx(dict(expected_row), abs=1e-4)
        if all(higher[1] - lower[1] > 2e-4 for higher, lower in pairwise(expected_row)):
            assert [label for label, _ in actual_row] == [label for label, _ in expected_row]
        assert outcome.text == actual_row[0][0]


@some_and_more(12, 500)
@half_and_more(classifiers.NAMES)
def test_scores_are_those_of_transformers_for_every_architecture_on_every_encoder(
    name: str, count: int, descriptions: list[str], french: list[str], benches: Benches, tmp_path: Path
) -> None:
    lines = real_lines([*descriptions, *french], count, shorter_than=90)
    folder = classifiers.classifier(tmp_path / name, lines, name, seed=7)
    expected_scores = classify_by_pipeline(folder, lines)
    best = [row[0][1] for row in expected_scores]
    assert max(best) - min(best) > 0.01  # the model does not say the same of everything
    for backend in ("transformers", *(() if name in classifiers.WHOLE else ("openvino",))):
        bench = benches(backend)
        spec = bench.spec("classify", folder)
        outcomes = bench.run(spec, lines)
        assert bench.engine.open(spec)["backend"] == backend
        assert_same(outcomes, expected_scores)


def test_of_a_classifiers_last_layer_no_more_is_computed_than_its_head_reads(
    lines: list[str], bench: Bench, tmp_path: Path
) -> None:
    """A head that reads the first token's state gets this one alone."""
    for name, tokens in (("bert", 1), ("modernbert-mean", 7)):
        folder = classifiers.classifier(tmp_path / name, lines, name)
        spec = bench.spec("classify", folder)
        batch = [Encoded(7, {"input_ids": [2, 5, 6, 7, 8, 9, 3]})]
        assignment = Assignment(spec, folder, "cpu", tmp_path / "cache", Head.CLASSIFICATION)
        with closing(EncoderBackend(assignment)) as on_torch, torch.inference_mode():
            states = on_torch._states_of(batch)
            assert states["token_embeddings"].shape[:2] == (1, tokens)
        with closing(OpenVinoBackend(assignment)) as on_openvino:
            assert on_openvino._model.states(batch)["token_embeddings"].shape[:2] == (1, tokens)


def test_a_head_that_gives_other_logits_from_the_states_is_left_in_its_model(
    lines: list[str], benches: Benches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = classifiers.classifier(tmp_path / "roberta", lines, "roberta")
    forward = own_code.GivenStates.forward

    def shifted(self: Any, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> Any:
        return forward(self, inputs_embeds=inputs_embeds + 0.1)

    monkeypatch.setattr(own_code.GivenStates, "forward", shifted)
    bench = benches("transformers")
    spec = bench.spec("classify", folder)
    opened = EncoderBackend(Assignment(spec, folder, "cpu", tmp_path, Head.CLASSIFICATION))
    assert opened._model.encoder is None
    opened.close()
    assert_same(bench.run(spec, lines[:12]), classify_by_pipeline(folder, lines[:12]))


@pytest.mark.parametrize(
    ("config", "options", "settings"),
    [
        ({"problem_type": "multi_label_classification"}, {}, {}),
        ({"problem_type": "single_label_classification"}, {}, {}),
        ({"problem_type": "regression"}, {}, {}),
        ({"id2label": {0: "relevance"}}, {}, {}),
        ({"id2label": {0: "stars"}, "problem_type": "regression"}, {}, {}),
        ({}, {"multi_label": True}, {"function_to_apply": "sigmoid"}),
    ],
)
def test_the_function_from_logits_to_scores_is_the_one_that_transformers_chooses(
    config: dict[str, Any], options: Any, settings: Any, lines: list[str], benches: Benches, tmp_path: Path
) -> None:
    folder = classifiers.classifier(tmp_path / "model", lines, "bert", **config)
    bench = benches("transformers")
    outcomes = bench.run(bench.spec("classify", folder, **options), lines[:6])
    assert_same(outcomes, classify_by_pipeline(folder, lines[:6], **settings))


def test_a_model_whose_labels_have_one_name_is_refused(lines: list[str], bench: Bench, tmp_path: Path) -> None:
    folder = classifiers.classifier(tmp_path / "model", lines, "bert", id2label={0: "same", 1: "same"})
    with pytest.raises(CannotServe, match="Two labels of the model have the same name"):
        bench.engine.open(bench.spec("classify", folder))
