"""Embeddings on OpenVINO are those of the model's own code, or OpenVINO does not open the model."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import native_bfloat16, quiet
from docmill.tasks.backends.encoder import conversion
from docmill.tasks.backends.encoder.conversion import first_states
from docmill.tasks.backends.encoder.openvino_backend import OpenVinoBackend
from docmill.tasks.errors import CannotServe, Unsuited
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.outputs import Head
from tests.tasks import architectures, classifiers
from tests.tasks.backends.encoder.test_packed import CONFIGS, TEXTS
from tests.tasks.backends.encoder.test_pooling import change_json
from tests.tasks.conftest import Bench, Benches, vectors_of
from tests.tasks.fakes import raising
from tests.tasks.real_lines import real_lines
from tests.tasks.reference import mean_states
from tests.worker.harness import run_program

# Opens the model of a folder, with a cache and in a precision.
OPEN = """
import sys
from pathlib import Path
from docmill.storage.core.specs import Spec
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder.openvino_backend import OpenVinoBackend
from docmill.tasks.outputs import Head

folder, cache, quality = sys.argv[1:]
spec = Spec(kind="embed", model=folder, revision="sha256:00", quality=quality)
opened = OpenVinoBackend(Assignment(spec, Path(folder), "cpu", Path(cache), Head.POOLING))
"""


@pytest.fixture(scope="module")
def on_openvino(benches: Benches) -> Bench:
    return benches("openvino")


def embed_spec(folder: Path, quality: str = "float32") -> Spec:
    return Spec(kind="embed", model=str(folder), revision="sha256:00", quality=quality)


def open_openvino(spec: Spec, cache_dir: Path) -> OpenVinoBackend:
    return OpenVinoBackend(Assignment(spec, Path(spec.model), "cpu", cache_dir, Head.POOLING))


@pytest.fixture(scope="module")
def lines(descriptions: list[str]) -> list[str]:
    """Return 100 lines of the examples."""
    return real_lines(descriptions, 100, shorter_than=300)


def least_cosine(actual: Any, expected: Any) -> float:
    lengths = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((actual * expected).sum(axis=1) / lengths).min())


def test_openvino_computes_in_bfloat16_where_the_processor_does(benches: Benches, lines: list[str]) -> None:
    bench = benches("openvino")
    expected = vectors_of(benches("transformers").run(bench.spec("embed", "minilm"), lines))
    spec = bench.spec("embed", "minilm", dtype="auto")
    assert least_cosine(vectors_of(bench.run(spec, lines)), expected) >= 0.999
    assert bench.engine.open(spec)["precision"] == ("bfloat16" if native_bfloat16("cpu") else "float32")


@pytest.mark.long
def test_two_processes_that_convert_at_once_make_one_whole_copy(bert: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as threads:
        assert [*threads.map(lambda _: run_program(OPEN, bert, tmp_path, "float32"), range(2))] == ["", ""]
    assert len([path for path in (tmp_path / "openvino").iterdir() if path.is_dir()]) == 1


def test_a_model_whose_head_needs_more_than_the_last_states_is_unsuited(bert: Path, tmp_path: Path) -> None:
    layered = Path(shutil.copytree(bert, tmp_path / "bert"))
    change_json("config.json", output_hidden_states=True)(layered)
    with pytest.raises(Unsuited, match="read more than the encoder's last hidden states"):
        open_openvino(embed_spec(layered), tmp_path)


def test_a_model_that_openvino_does_not_convert_is_opened_by_transformers(
    bench: Bench, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openvino.convert_model", raising(RuntimeError("an operation without a translation")))
    spec = bench.spec("embed", bert)
    folders = ModelFolders(None, tmp_path)
    assert bench.opens(spec, folders=folders) == "transformers"
    with pytest.raises(CannotServe, match="does not convert"):
        bench.open(spec, folders=folders, backend="openvino")


SPAN = 32


@pytest.fixture(scope="module")
def modern(descriptions: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an encoder with three layers, two of which see 16 tokens to each side."""
    texts = descriptions[:40]
    tokenizer = architectures.words(texts, typed=True)
    tokenizer.model_max_length = 256
    config = {"num_hidden_layers": 3, "max_position_embeddings": 256, "local_attention": SPAN}
    folder = tmp_path_factory.mktemp("modern") / "modern"
    return classifiers.classifier(
        folder, texts, "modernbert", head=AutoModel, tokenizer=tokenizer, initializer_range=0.02, **config
    )


def test_local_attention_beside_much_padding_computes_what_the_models_own_code_does(
    on_openvino: Bench, modern: Path, descriptions: list[str], lines: list[str]
) -> None:
    long = " ".join(descriptions[0].split() * 4)
    texts = [text for line in lines[:12] for text in (line[:20], f"{line} {long}"[:400], long[:600])]
    actual = vectors_of(on_openvino.run(on_openvino.spec("embed", modern), texts))
    assert least_cosine(actual, mean_states(modern, texts)) >= 0.999999


def test_fused_local_attention_that_gives_nan_for_padding_is_unsuited(
    modern: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A span of 128 is wider than the first four lengths of texts that are compared."""
    wide = Path(shutil.copytree(modern, tmp_path / "wide"))
    change_json("config.json", local_attention=128)(wide)
    monkeypatch.setattr(conversion, "_written_out", lambda _: nullcontext())
    with pytest.raises(Unsuited, match="differ by inf from those"):
        open_openvino(embed_spec(wide), tmp_path)
    monkeypatch.undo()
    open_openvino(embed_spec(wide), tmp_path / "again").close()


@pytest.mark.parametrize("name", CONFIGS)
def test_states_of_a_padded_batch_are_the_models_own_and_the_model_is_as_before(name: str) -> None:
    torch.manual_seed(3)
    longest = max(map(len, TEXTS))
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in TEXTS])
    rows = torch.tensor([ids + [1] * (longest - len(ids)) for ids in TEXTS])
    with quiet(), torch.inference_mode():
        model = transformers.AutoModel.from_config(CONFIGS[name]).eval()
        expected = model(input_ids=rows, attention_mask=mask).last_hidden_state
        actual = first_states(model, ["input_ids", "attention_mask"], rows, mask)
        expected_again = model(input_ids=rows, attention_mask=mask).last_hidden_state
    assert torch.allclose(actual, expected[:, :1], atol=2e-6)
    assert torch.equal(expected_again, expected)
