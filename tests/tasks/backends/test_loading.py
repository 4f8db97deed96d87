"""A model whose files lack weights is refused. transformers would make them up at random."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling

from docmill.tasks import backends
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.convert import safe_folder
from docmill.tasks.backends.loading import missing_weights, without_weights
from docmill.tasks.backends.reading import rehearse
from docmill.tasks.engine import backend_factory
from docmill.tasks.errors import CannotServe
from docmill.tasks.outputs import Head
from tests.tasks import architectures, classifiers, decoders
from tests.tasks.backends.encoder.test_pooling import save_with_modules
from tests.tasks.conftest import MARIAN, Bench
from tests.tasks.fakes import raising
from tests.tasks.real_lines import half_and_more


@pytest.fixture
def texts(descriptions: list[str]) -> list[str]:
    return descriptions[:20]


def drop(folder: Path, part: str, file: str = "model.safetensors") -> Path:
    """Remove the weights whose names contain ``part`` from a model's file."""
    weights = load_file(folder / file)
    left = {name: weight for name, weight in weights.items() if part not in name}
    assert 0 < len(left) < len(weights)
    save_file(left, folder / file, metadata={"format": "pt"})
    return folder


def reshape(folder: Path, part: str) -> Path:
    """Give the weights whose names contain ``part`` another shape."""
    weights = load_file(folder / "model.safetensors")
    names = [name for name in weights if part in name]
    assert names
    save_file(weights | {name: torch.zeros(3, 5) for name in names}, folder / "model.safetensors", {"format": "pt"})
    return folder


def sentence_model(folder: Path, texts: list[str]) -> Path:
    """Save a BERT with a mean and a dense layer after it."""
    bert = architectures.bert(folder / "bert", texts)
    return save_with_modules(folder / "whole", bert, Pooling(32, "mean"), Dense(32, 8))


def open_with(bench: Bench, kind: str, folder: Path, backend: str, **options: Any) -> str:
    """Open a model with a backend, and return the name of the backend that opened."""
    return bench.opens(bench.spec(kind, folder, **options), backend=backend)


@pytest.mark.parametrize("backend", ["transformers", "ctranslate2"])
def test_an_encoder_decoder_without_one_of_its_layers_is_refused(bench: Bench, tmp_path: Path, backend: str) -> None:
    folder = drop(Path(shutil.copytree(MARIAN, tmp_path / "cut")), "decoder.layers.1.")
    with pytest.raises(CannotServe, match=r"lack 26 weights that translate computes with, such as .*layers\.1\."):
        open_with(bench, "translate", folder, backend, source_lang="fr", target_lang="en")


def test_a_conversion_of_an_earlier_release_does_not_hide_what_its_model_lacks(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = drop(Path(shutil.copytree(MARIAN, tmp_path / "cut")), "encoder.layers.0.fc1")
    with monkeypatch.context() as earlier:
        earlier.setattr("docmill.tasks.backends.loading.require_loaded", lambda *_, **__: None)
        open_with(bench, "translate", folder, "ctranslate2", source_lang="fr", target_lang="en")
    with pytest.raises(CannotServe, match="lack 2 weights"):
        open_with(bench, "translate", folder, "ctranslate2", source_lang="fr", target_lang="en")


def test_the_encoder_of_a_t5_alone_embeds_but_does_not_write(bench: Bench, texts: list[str], tmp_path: Path) -> None:
    whole = architectures.t5(tmp_path / "whole", texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    alone = architectures.save(tmp_path / "alone", transformers.T5EncoderModel.from_pretrained(whole), tokenizer)
    with pytest.raises(CannotServe, match=r"weights that summarize computes with, such as decoder\."):
        open_with(bench, "summarize", alone, "ctranslate2")
    assert open_with(bench, "embed", alone, "transformers") == "sentence-transformers"
    assert open_with(bench, "embed", whole, "transformers") == "sentence-transformers"


def test_a_decoder_without_its_head_does_not_write_unless_the_head_is_tied(
    bench: Bench, texts: list[str], tmp_path: Path
) -> None:
    tied = decoders.qwen3(tmp_path / "tied", texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tied)
    config = transformers.AutoConfig.from_pretrained(tied)
    headless = architectures.save(tmp_path / "headless", transformers.Qwen3Model(config), tokenizer)
    assert open_with(bench, "generate", headless, "transformers", prompt="{text}") == "transformers"
    config.tie_word_embeddings = False
    untied = architectures.save(tmp_path / "untied", transformers.Qwen3Model(config), tokenizer)
    with pytest.raises(CannotServe, match=r"lack 1 weights that generate computes with, such as lm_head\.weight"):
        open_with(bench, "generate", untied, "transformers", prompt="{text}")
    assert open_with(bench, "embed", untied, "transformers") == "sentence-transformers"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: drop(folder, "encoder.layer.1."), "lack 16 weights that embed computes with"),
        (lambda folder: reshape(folder, "encoder.layer.0.output.dense.weight"), "lack 1 weights that embed"),
        (lambda folder: drop(folder / "2_Dense", "bias"), "Missing key.*linear.bias"),
    ],
    ids=["layer", "shape", "dense"],
)
def test_an_embedding_model_whose_modules_lack_weights_is_refused(
    bench: Bench, texts: list[str], tmp_path: Path, damage: Callable[[Path], Path], message: str
) -> None:
    folder = sentence_model(tmp_path, texts)
    assert open_with(bench, "embed", folder, "transformers")
    damage(folder)
    with pytest.raises(CannotServe, match=message):
        open_with(bench, "embed", folder, "transformers")


def test_an_unused_pooler_may_be_missing(bench: Bench, texts: list[str], tmp_path: Path) -> None:
    folder = sentence_model(tmp_path, texts)
    drop(folder, "pooler.")
    assert open_with(bench, "embed", folder, "transformers")


def test_weights_that_a_pickle_lacks_are_noticed_too(bench: Bench, texts: list[str], tmp_path: Path) -> None:
    folder = architectures.t5(tmp_path / "t5", texts)
    model = transformers.T5ForConditionalGeneration.from_pretrained(drop(folder, "decoder.block.1."))
    state = {name: weight for name, weight in model.state_dict().items() if "decoder.block.1." not in name}
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CannotServe, match=r"such as decoder\.block\.1\."):
        open_with(bench, "summarize", folder, "transformers")


def test_a_classifier_in_float64_is_rehearsed_without_reading_its_weights(
    bench: Bench, texts: list[str], tmp_path: Path
) -> None:
    folder = classifiers.classifier(tmp_path / "model", texts, "bert")
    file = folder / "model.safetensors"
    save_file({name: weight.double() for name, weight in load_file(file).items()}, file, {"format": "pt"})
    spec = bench.spec("classify", folder)
    rehearse(Assignment(spec, folder, "cpu", tmp_path, Head.CLASSIFICATION))


# Models with tied weights, with buffers, with neither, and with tables that two halves share.
ARCHITECTURES: dict[str, tuple[Any, Callable[[Path, list[str]], Path]]] = {
    "t5": (transformers.AutoModelForSeq2SeqLM, architectures.t5),
    "marian": (transformers.AutoModelForSeq2SeqLM, architectures.marian),
    "roberta": (transformers.AutoModel, architectures.roberta),
    "gpt2": (transformers.AutoModelForCausalLM, decoders.gpt2),
    "gemma3": (transformers.AutoModelForCausalLM, decoders.gemma3),
}


@half_and_more(ARCHITECTURES)
def test_missing_weights_are_noticed_with_and_without_reading_weights(
    name: str, texts: list[str], tmp_path: Path
) -> None:
    """Tied weights and buffers are in no file, and do not count as missing."""
    kind, make = ARCHITECTURES[name]
    folder = safe_folder(make(tmp_path / name, texts), "sha256:00", tmp_path)
    with missing_weights() as missing:
        kind.from_pretrained(folder)
    assert missing == []
    with without_weights(), missing_weights() as missing:
        kind.from_pretrained(folder)
    assert missing == []
    layers = [key for key in load_file(folder / "model.safetensors") if "1." in key and "norm" not in key.lower()]
    drop(folder, layers[0])
    for how in (nullcontext(), without_weights()):
        with how, missing_weights() as missing:
            kind.from_pretrained(folder)
        assert len(missing) == 1


def test_a_worker_whose_torch_cannot_be_imported_refuses_its_models(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = raising(ImportError("libcudart.so.13: cannot open shared object file"))
    monkeypatch.setattr(backend_factory, "_first_suited", broken)
    monkeypatch.delattr(backends, "accelerator")
    monkeypatch.setitem(sys.modules, "docmill.tasks.backends.accelerator", None)
    with pytest.raises(CannotServe, match=r"cpu can compute nothing: the Python module \S+ is missing; .*install"):
        backend_factory.open_backend(bench.spec("embed", "minilm"), device="cpu", folders=bench.folders)
