"""Sparse encoders give the weights of sentence-transformers' own in float32, one text at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
from transformers import AutoModelForMaskedLM, AutoTokenizer

from docmill.storage.core.specs import Outcome
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.errors import CannotServe, ModelUnsuitable
from docmill.tasks.specs import pinning
from tests.tasks import classifiers
from tests.tasks.backends.test_adapters import load_peft, save_adapter
from tests.tasks.conftest import Bench, Benches, data_of
from tests.tasks.real_lines import half_and_more

# By name: architecture, class of the first module, pooling, activation, how many tokens the model's files keep.
MODELS: dict[str, tuple[str, type[Transformer], str, str, int | None]] = {
    "bert": ("bert", MLMTransformer, "max", "relu", None),
    "distilbert": ("distilbert", Transformer, "sum", "relu", None),
    "roberta": ("roberta", Transformer, "max", "log1p_relu", 9),
    "modernbert": ("modernbert", Transformer, "max", "relu", None),
}

CONVERTED = frozenset({"bert", "modernbert"})  # a conversion takes seconds


def splade(folder: Path, texts: Sequence[str], name: str = "bert", more: Sequence[Any] = ()) -> Path:
    architecture, first, pooling, activation, most = MODELS[name]
    base = classifiers.classifier(folder / "base", texts, architecture, head=AutoModelForMaskedLM)
    with quiet():
        modules = [first(str(base), transformer_task="fill-mask"), SpladePooling(pooling, activation), *more]
        SparseEncoder(modules=modules, max_active_dims=most).save_pretrained(str(folder / "splade"))
    return folder / "splade"


def weights_of(outcome: Outcome) -> list[dict[str, Any]]:
    return list(data_of(outcome)["weights"])


def dense_row(entries: Sequence[dict[str, Any]], size: int) -> Any:
    values = np.zeros(size)
    for entry in entries:
        values[entry["token_id"]] = entry["weight"]
    return values


@half_and_more(MODELS)
def test_weights_are_those_of_sentence_transformers_for_every_architecture(
    name: str, lines: list[str], benches: Benches, tmp_path: Path
) -> None:
    folder, texts = splade(tmp_path, lines, name), lines[:12]
    with quiet():
        reference = SparseEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        expected = [reference.encode([text], convert_to_sparse_tensor=False)[0].numpy() for text in texts]
    for backend in ("transformers", *(("openvino",) if name in CONVERTED else ())):
        bench = benches(backend)
        for outcome, expected_row in zip(bench.run(bench.spec("sparse", folder), texts), expected, strict=True):
            entries = weights_of(outcome)
            assert len(entries) == np.count_nonzero(expected_row)
            np.testing.assert_allclose(dense_row(entries, len(expected_row)), expected_row, atol=1e-4)
            assert entries == sorted(entries, key=lambda entry: -entry["weight"])
            tokens = reference.tokenizer.convert_ids_to_tokens([entry["token_id"] for entry in entries])
            assert [entry["token"] for entry in entries] == tokens


def test_a_long_text_has_the_highest_weights_of_its_windows_and_top_k_keeps_the_best(
    lines: list[str], benches: Benches, tmp_path: Path
) -> None:
    bench, folder = benches("transformers"), splade(tmp_path, lines)
    sentences = [f"{line.rstrip('.')}." for line in lines[:3]]
    outcomes = bench.run(bench.spec("sparse", folder), sentences)
    alone = [weights_of(outcome) for outcome in outcomes]
    text, size = "\n\n".join(sentences), max(entry["token_id"] for entries in alone for entry in entries) + 1
    narrow = bench.spec("sparse", folder, window_tokens=max(outcome.tokens_in for outcome in outcomes))
    [whole] = bench.run(narrow, [text])
    assert whole.flags == ("windowed",)
    highest = np.max([dense_row(entries, size) for entries in alone], axis=0)
    np.testing.assert_allclose(dense_row(weights_of(whole), size), highest, atol=1e-5)
    [best] = bench.run(bench.spec("sparse", folder, window_tokens=narrow.params["window_tokens"], top_k=5), [text])
    assert weights_of(best) == weights_of(whole)[:5]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_an_adapter_is_merged_before_tokens_are_weighed(lines: list[str], benches: Benches, tmp_path: Path) -> None:
    texts = lines[:4]
    folder = splade(tmp_path, texts)
    layers = ["query", "value", "cls.predictions.transform.dense"]
    adapter = save_adapter(folder, tmp_path / "adapter", "AutoModelForMaskedLM", target_modules=layers)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    adapted = load_peft(folder, adapter, "AutoModelForMaskedLM")
    bench = benches("transformers")
    plain = bench.run(bench.spec("sparse", folder), texts)
    outcomes = bench.run(bench.spec("sparse", folder, adapter=str(adapter)), texts)
    for text, outcome, without_adapter in zip(texts, outcomes, plain, strict=True):
        with torch.inference_mode():
            logits = adapted(**tokenizer(text, return_tensors="pt")).logits[0]
        expected = logits.relu().log1p().amax(0).numpy()
        np.testing.assert_allclose(dense_row(weights_of(outcome), len(expected)), expected, atol=1e-4)
        assert not np.allclose(dense_row(weights_of(without_adapter), len(expected)), expected, atol=1e-2)


def test_other_models_are_refused(descriptions: list[str], bench: Bench, tmp_path: Path) -> None:
    base = classifiers.classifier(tmp_path / "base", descriptions[:5], "bert", head=AutoModelForMaskedLM)
    for model in ("minilm", str(base)):
        pinned = pinning.pin(model, bench.folders)
        with pytest.raises(ModelUnsuitable, match="sparse needs a sparse encoder such as SPLADE"):
            pinning.require("sparse", pinned, bench.folders)
    folder = splade(tmp_path / "more", descriptions[:5], more=[Normalize()])
    with pytest.raises(CannotServe, match="has the modules MLMTransformer, SpladePooling, Normalize"):
        bench.open(bench.spec("sparse", folder))
