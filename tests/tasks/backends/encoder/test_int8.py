"""Encoders in int8: near those in float32, asked for by name, and refused where they cannot be had."""

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
from docmill.tasks.backends.encoder.openvino_backend import OpenVinoBackend
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.errors import Unsuited
from docmill.tasks.windows.windows import Encoded
from tests.tasks import architectures, classifiers
from tests.tasks.backends.encoder.test_conversion import OPEN, assigned, lines, of_folder
from tests.tasks.conftest import Benches, multiplies_int8_exactly
from tests.tasks.test_architectures import vectors

# Says whether the conversion was made, and what was left in the home folder.
SAY = "print('nncf' in sys.modules, 'openvino_telemetry.main' in sys.modules, [*Path.home().iterdir()])"


@pytest.fixture(scope="module")
def small(descriptions: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.bert(tmp_path_factory.mktemp("small") / "bert", descriptions[:40])


@pytest.fixture(scope="module")
def cache(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One in which the small model is converted."""
    folder = tmp_path_factory.mktemp("int8")
    opened(small, folder)
    return folder


def opened(folder: Path, cache: Path) -> None:
    OpenVinoBackend(assigned(of_folder(folder, "int8"), cache)).close()


def no_nncf(*_: Any) -> None:
    raise PackageNotFoundError("nncf")


@pytest.mark.long
@pytest.mark.slow
def test_vectors_are_near_those_in_float32(benches: Benches, descriptions: list[str], french: list[str]) -> None:
    """On texts by which no scale was measured: the shipped ones are from every second row of the same files."""
    texts = [*lines(descriptions[1::2])[:80], *lines(french[1::2])[:40]]
    assert not set(texts) & set(int8._TEXTS.read_text().splitlines())
    bench = benches(registry.AUTO)
    spec = bench.spec("embed", "minilm", dtype="int8")
    found = vectors(bench.run(spec, texts))
    exact = vectors(benches("transformers").run(bench.spec("embed", "minilm"), texts))
    cosines = (found * exact).sum(axis=1)
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
    texts = lines(descriptions)[:12]
    head = AutoModelForTokenClassification if kind == "entities" else AutoModelForSequenceClassification
    folder = classifiers.classifier(tmp_path / kind, texts, "bert", head=head)
    bench = benches(registry.AUTO)
    spec = bench.spec(kind, str(folder), dtype="int8")
    found = [scores(outcome) for outcome in bench.run(spec, texts)]
    exact = [scores(outcome) for outcome in bench.run(bench.spec(kind, str(folder)), texts)]
    distances = [
        abs(one.get(key, 0.0) - score) for one, own in zip(found, exact, strict=True) for key, score in own.items()
    ]
    assert 0 < np.median(distances) < (0.02 if multiplies_int8_exactly() else 0.05)
    assert bench.engine.open(spec)["precision"].startswith("int8_")


def scores(outcome: Outcome) -> dict[Any, float]:
    """Return the score of each label, or of each span by its label and place."""
    data = outcome.data or {}
    spans = {(one["label"], one["start"], one["end"]): one["score"] for one in data.get("spans", ())}
    return spans or {one["label"]: one["score"] for one in data["labels"]}


def test_one_product_is_left_in_floating_point(small: Path) -> None:
    model, tokens = AutoModel.from_pretrained(small).eval(), Tokens(AutoTokenizer.from_pretrained(small))
    _, make, _ = int8.quantization("form", lambda: traced(model, tokens), model, tokens, 100)
    left = [(inputs, outputs) for _, inputs, outputs in int8._products(make())]
    assert left == [(model.config.intermediate_size, model.config.hidden_size)]


def test_a_conversion_is_made_once_and_apart_from_that_in_native_precision(
    small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights,) = (cache / "openvino").glob("*-int8-*/model.bin")
    kept = weights.stat().st_ino
    OpenVinoBackend(assigned(of_folder(small, "native"), cache)).close()
    monkeypatch.setattr(int8, "_silent_nncf", no_nncf)
    opened(small, cache)
    assert weights.stat().st_ino == kept
    assert len(list((cache / "openvino").glob("*/model.bin"))) == 2


@pytest.mark.long
def test_nothing_is_said_sent_or_written_at_home(small: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-W", "error", "-c", OPEN + SAY, str(small), str(tmp_path / "cache"), "int8"]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # where nothing is sent anyway
    environment["HOME"] = str(home)
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said == "True False []\n"


def test_a_model_that_loses_too_much_is_refused(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another(_: Any, tokens: Any, *_more: Any) -> Any:
        torch.manual_seed(8)
        return traced(AutoModel.from_config(AutoConfig.from_pretrained(small)).eval(), tokens)

    monkeypatch.setattr(int8, "_quantize", another)
    with pytest.raises(Unsuited, match="states on OpenVINO differ by"):
        opened(small, tmp_path)


def test_a_model_whose_windows_hold_no_text_is_unsuited(small: Path) -> None:
    model, tokens = AutoModel.from_pretrained(small).eval(), Tokens(AutoTokenizer.from_pretrained(small))
    with pytest.raises(Unsuited, match="windows are too short"):
        int8.quantization("form", lambda: traced(model, tokens), model, tokens, 24)


def test_activations_are_measured_alike_for_every_spec_of_a_model(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its specs share the encoder."""
    measured = []

    def spy(made: Any, _tokens: Any, texts: list[Encoded], *_more: Any) -> Any:
        measured.append([text.ids for text in texts])
        return made

    monkeypatch.setattr(int8, "_quantize", spy)
    for number, params in enumerate([{}, {"prompt": "query: {text}", "window_tokens": 24}]):
        spec = replace(of_folder(small, "int8"), params=params)
        OpenVinoBackend(assigned(spec, tmp_path / str(number))).close()
    assert measured[0] == measured[1]
