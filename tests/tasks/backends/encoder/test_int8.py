"""Encoders in int8 compute nearly what those in float32 do, and are refused where they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from docmill.storage.core.specs import Outcome
from docmill.tasks.backends import registry
from docmill.tasks.backends.encoder import int8
from docmill.tasks.backends.encoder.conversion import traced
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.errors import Unsuited
from docmill.tasks.windows.windows import Encoded
from tests.tasks import classifiers
from tests.tasks.backends.encoder.test_conversion import OPEN, embed_spec, open_openvino
from tests.tasks.conftest import Benches, multiplies_int8_exactly, vectors_of
from tests.tasks.fakes import raising
from tests.tasks.real_lines import real_lines

# Prints whether nncf converted the model, whether telemetry is loaded, and the files in the home folder.
PRINT_TRACES = "print('nncf' in sys.modules, 'openvino_telemetry.main' in sys.modules, [*Path.home().iterdir()])"


@pytest.fixture(scope="module")
def cache(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder with the conversion of the small model."""
    folder = tmp_path_factory.mktemp("int8")
    open_in_int8(bert, folder)
    return folder


def open_in_int8(folder: Path, cache: Path) -> None:
    open_openvino(embed_spec(folder, "int8"), cache).close()


@pytest.mark.long
@pytest.mark.slow
def test_vectors_are_near_those_in_float32(benches: Benches, descriptions: list[str], french: list[str]) -> None:
    """The scales were measured on the even rows of the same files; these texts are from the odd rows."""
    examples = (descriptions, 80), (french, 40)
    texts = [line for rows, count in examples for line in real_lines(rows[1::2], count, shorter_than=300)]
    assert not set(texts) & set(int8._TEXTS.read_text().splitlines())
    bench = benches(registry.AUTO)
    spec = bench.spec("embed", "minilm", dtype="int8")
    in_int8 = vectors_of(bench.run(spec, texts))
    exact = vectors_of(benches("transformers").run(bench.spec("embed", "minilm"), texts))
    cosines = (in_int8 * exact).sum(axis=1)
    assert cosines.min() >= 0.99
    assert np.median(cosines) >= (0.997 if multiplies_int8_exactly() else 0.995)
    assert np.median(cosines) < 0.9999  # bfloat16 would be nearer
    runtime = bench.engine.open(spec)
    assert runtime["backend"] == "openvino"
    assert runtime["precision"].startswith("int8_")
    assert {"openvino", "nncf"} <= runtime["versions"].keys()


@pytest.mark.parametrize("kind", [pytest.param("classify", marks=pytest.mark.long), "entities"])
def test_scores_are_near_those_in_float32(
    kind: str, benches: Benches, descriptions: list[str], tmp_path: Path
) -> None:
    texts = real_lines(descriptions, 12, shorter_than=300)
    head = AutoModelForTokenClassification if kind == "entities" else AutoModelForSequenceClassification
    folder = classifiers.classifier(tmp_path / kind, texts, "bert", head=head)
    bench = benches(registry.AUTO)
    spec = bench.spec(kind, folder, dtype="int8")
    in_int8 = [scores_by_key(outcome) for outcome in bench.run(spec, texts)]
    exact = [scores_by_key(outcome) for outcome in bench.run(bench.spec(kind, folder), texts)]
    distances = [
        abs(row.get(key, 0.0) - score)
        for row, exact_row in zip(in_int8, exact, strict=True)
        for key, score in exact_row.items()
    ]
    assert 0 < np.median(distances) < (0.02 if multiplies_int8_exactly() else 0.05)
    assert bench.engine.open(spec)["precision"].startswith("int8_")


def scores_by_key(outcome: Outcome) -> dict[Any, float]:
    """Return the score of each label, or of each span by its label and place."""
    data = outcome.data or {}
    spans = {(span["label"], span["start"], span["end"]): span["score"] for span in data.get("spans", ())}
    return spans or {label["label"]: label["score"] for label in data["labels"]}


def test_a_single_product_stays_in_floating_point(bert: Path) -> None:
    model, tokens = AutoModel.from_pretrained(bert).eval(), Tokens(AutoTokenizer.from_pretrained(bert))
    _, make, _ = int8.quantization("form", lambda: traced(model, tokens), model, tokens, 100)
    left = [(inputs, outputs) for _, inputs, outputs in int8._products(make())]
    assert left == [(model.config.intermediate_size, model.config.hidden_size)]


def test_a_model_is_converted_once_for_each_precision(
    bert: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights,) = (cache / "openvino").glob("*-int8-*/model.bin")
    inode = weights.stat().st_ino
    open_openvino(embed_spec(bert, "native"), cache).close()
    monkeypatch.setattr(int8, "_silent_nncf", raising(PackageNotFoundError("nncf")))
    open_in_int8(bert, cache)
    assert weights.stat().st_ino == inode
    assert len(list((cache / "openvino").glob("*/model.bin"))) == 2


@pytest.mark.long
def test_a_conversion_prints_sends_and_leaves_nothing(bert: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-W", "error", "-c", OPEN + PRINT_TRACES, str(bert), str(tmp_path / "cache"), "int8"]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # CI would send nothing anyway
    environment["HOME"] = str(home)
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert output == "True False []\n"


def test_a_model_that_loses_too_much_is_refused(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another(_: Any, tokens: Any, *_more: Any) -> Any:
        torch.manual_seed(8)
        return traced(AutoModel.from_config(AutoConfig.from_pretrained(bert)).eval(), tokens)

    monkeypatch.setattr(int8, "_quantize", another)
    with pytest.raises(Unsuited, match="states on OpenVINO differ by"):
        open_in_int8(bert, tmp_path)


def test_a_model_whose_windows_hold_no_text_is_unsuited(bert: Path) -> None:
    model, tokens = AutoModel.from_pretrained(bert).eval(), Tokens(AutoTokenizer.from_pretrained(bert))
    with pytest.raises(Unsuited, match="windows are too short"):
        int8.quantization("form", lambda: traced(model, tokens), model, tokens, 24)


def test_activations_are_measured_alike_for_every_spec_of_a_model(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The specs of a model share its encoder."""
    measured = []

    def spy(model: Any, _tokens: Any, texts: list[Encoded], *_more: Any) -> Any:
        measured.append([text.ids for text in texts])
        return model

    monkeypatch.setattr(int8, "_quantize", spy)
    for number, params in enumerate([{}, {"prompt": "query: {text}", "window_tokens": 24}]):
        open_openvino(replace(embed_spec(bert, "int8"), params=params), tmp_path / str(number)).close()
    assert measured[0] == measured[1]
