"""Embeddings on OpenVINO are those of the model's own code, or the model is left to others."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel, AutoTokenizer

from storage.specs import Spec
from tasks import choice
from tasks.backends import open_backend
from tasks.backends.accelerator import native_bfloat16, quiet
from tasks.backends.encoder import openvino_encoder
from tasks.backends.encoder.contest import subject
from tasks.backends.encoder.notes import remembered
from tasks.backends.encoder.openvino_embed import OpenVinoBackend
from tasks.backends.tokens import Tokens
from tasks.errors import CannotServe, Unsuited
from tasks.families import Family
from tests.tasks import architectures
from tests.tasks.conftest import Bench
from tests.tasks.test_architectures import vectors

OPEN = (
    "import sys; from pathlib import Path; from storage.specs import Spec; "
    "from tasks.backends.encoder.openvino_embed import OpenVinoBackend; folder, cache = map(Path, sys.argv[1:]); "
    "spec = Spec(kind='embed', model=str(folder), revision='sha256:00', quality='float32'); "
    "print(OpenVinoBackend(spec, folder, device='cpu', cache_dir=cache).runtime()['backend'])"
)


@pytest.fixture(scope="module")
def ov(benches: Callable[[str], Bench]) -> Bench:
    return benches("openvino")


@pytest.fixture(scope="module")
def mpnet(descriptions: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that is not of BERT's design: its attention knows the distances between tokens."""
    folder = tmp_path_factory.mktemp("mpnet")
    tokenizer = AutoTokenizer.from_pretrained(architectures.bert(folder / "bert", descriptions[:40]))
    config = transformers.MPNetConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=130,
    )
    torch.manual_seed(7)
    return architectures.save(folder / "mpnet", transformers.MPNetModel(config), tokenizer)


def of_folder(folder: Path, quality: str = "float32") -> Spec:
    return Spec(kind="embed", model=str(folder), revision="sha256:00", quality=quality)


def lines(texts: list[str]) -> list[str]:
    return [line for text in texts for line in text.split("\n") if 0 < len(line.strip()) < 300][:100]


def least_cosine(found: Any, expected: Any) -> float:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(axis=1) / lengths).min())


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.999999), ("auto", 0.999)])
def test_vectors_are_those_of_transformers_in_float32(
    ov: Bench, benches: Callable[[str], Bench], descriptions: list[str], dtype: str, least: float
) -> None:
    texts = lines(descriptions)
    expected = vectors(benches("transformers").run(ov.spec("embed", "minilm"), texts))
    spec = ov.spec("embed", "minilm", dtype=dtype)
    assert least_cosine(vectors(ov.run(spec, texts)), expected) >= least
    bfloat16 = dtype == "auto" and native_bfloat16("cpu")
    runtime = ov.engine.runtime(spec)
    assert (runtime["backend"], runtime["precision"]) == ("openvino", "bfloat16" if bfloat16 else "float32")
    assert "openvino" in runtime["versions"]


def test_a_model_that_is_not_of_berts_design_goes_by_itself_to_what_was_measured_the_fastest(
    bench: Bench, ov: Bench, mpnet: Path, descriptions: list[str]
) -> None:
    spec = bench.spec("embed", str(mpnet))
    texts = lines(descriptions)
    chosen = vectors(bench.run(spec, texts))
    measured = remembered(bench.cache_dir / "backends", subject(spec, "cpu", ("openvino", "transformers")))
    assert measured["tokens_per_s"].keys() == {"openvino", "transformers"}
    backend = bench.engine.runtime(spec)["backend"]
    assert backend == {"openvino": "openvino", "transformers": "sentence-transformers"}[measured["fastest"]]
    found = vectors(ov.run(spec, texts))
    assert ov.engine.runtime(spec)["backend"] == "openvino"
    with quiet(), torch.inference_mode():
        model, tokenizer = AutoModel.from_pretrained(mpnet).eval(), AutoTokenizer.from_pretrained(mpnet)
        ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
        expected = torch.stack([model(input_ids=one).last_hidden_state[0].mean(0) for one in ids]).numpy()
    assert least_cosine(found, expected) >= 0.999999
    assert least_cosine(chosen, expected) >= 0.999999


def test_candidates_for_embeddings() -> None:
    def of(**changed: str) -> tuple[str, ...]:
        what = {"quality": "native", "device": "cpu", **changed}
        return choice.candidates("embed", Family.ENCODER, present=choice.MODULES, **what)

    assert of() == ("openvino", "transformers")
    assert of(device="cuda:0") == of(quality="float16") == ("transformers",)
    assert of(quality="int8") == ("openvino",)
    assert of(quality="int8", device="cuda:0") == ()


def test_two_processes_that_convert_at_once_make_one_whole_copy(mpnet: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", OPEN, str(mpnet), str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=200)[0] for process in processes] == ["openvino\n", "openvino\n"]
    assert [process.returncode for process in processes] == [0, 0]
    assert len([path for path in (tmp_path / "openvino").iterdir() if path.is_dir()]) == 1


def test_a_conversion_is_made_once_and_again_where_it_is_damaged(mpnet: Path, tmp_path: Path) -> None:
    def opened() -> tuple[int, bytes]:
        OpenVinoBackend(of_folder(mpnet), mpnet, device="cpu", cache_dir=tmp_path).close()
        (weights,) = (tmp_path / "openvino").glob("*/model.bin")
        return weights.stat().st_ino, weights.read_bytes()

    inode, whole = opened()
    assert opened() == (inode, whole)
    (weights,) = (tmp_path / "openvino").glob("*/model.bin")
    weights.write_bytes(whole[:-100])
    assert opened()[1] == whole


def test_what_openvino_would_compute_otherwise_is_left_to_others(
    mpnet: Path, descriptions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for spec, device in ((of_folder(mpnet, "float16"), "cpu"), (of_folder(mpnet), "cuda:0")):
        with pytest.raises(Unsuited, match="computes nothing"):
            OpenVinoBackend(spec, mpnet, device=device, cache_dir=tmp_path)
    layered = architectures.bert(tmp_path / "bert", descriptions[:40])
    config = json.loads((layered / "config.json").read_text())
    (layered / "config.json").write_text(json.dumps({**config, "output_hidden_states": True}))
    with pytest.raises(Unsuited, match="more of the first"):
        OpenVinoBackend(of_folder(layered), layered, device="cpu", cache_dir=tmp_path)
    monkeypatch.setattr(openvino_encoder, "TOLERANCES", {torch.float32: 0.0})
    with pytest.raises(Unsuited, match="does not give the same"):
        OpenVinoBackend(of_folder(mpnet), mpnet, device="cpu", cache_dir=tmp_path)


def test_a_tracer_that_fails_leaves_the_model_to_transformers(
    bench: Bench, mpnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("an operation without a translation")

    monkeypatch.setattr("openvino.convert_model", refuse)
    spec = bench.spec("embed", str(mpnet))
    backend = open_backend(spec, device="cpu", models_dir=None, cache_dir=tmp_path)
    assert backend.runtime()["backend"] == "sentence-transformers"
    backend.close()
    with pytest.raises(CannotServe, match="does not convert"):
        open_backend(spec, device="cpu", models_dir=None, cache_dir=tmp_path, backend="openvino")


def test_nothing_is_reported_to_the_makers_of_the_converter(mpnet: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    variables = {name: value for name, value in os.environ.items() if name not in {"CI", "TF_BUILD", "JENKINS_URL"}}
    told = "; import openvino.tools.ovc.telemetry_utils as used; print(used.tm.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", OPEN + told, str(mpnet), str(tmp_path / "cache")],
        env={**variables, "HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=200,
    )
    assert done.stdout.split() == ["openvino", "openvino.tools.ovc.telemetry_stub"]
    assert list(home.rglob("*ga_cid")) == []


def test_a_conversion_that_fails_leaves_the_root_logger_as_it_was(mpnet: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("an operation without a translation")

    root = logging.getLogger()
    before = root.level, root.filters[:], root.handlers[:]
    with pytest.raises(Exception, match="without a translation"):
        openvino_encoder.traced(Broken(), Tokens(AutoTokenizer.from_pretrained(mpnet)))
    assert (root.level, root.filters, root.handlers) == before
