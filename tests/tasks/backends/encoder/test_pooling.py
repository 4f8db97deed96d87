"""Embedding models whose usual modules are read here give the vectors of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import AutoModel, AutoTokenizer

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder import pooling
from docmill.tasks.backends.encoder.heads import EncoderModel
from docmill.tasks.errors import CannotServe
from docmill.tasks.models import sentence_modules
from docmill.tasks.models.sentence_modules import POOLINGS
from docmill.tasks.outputs import Head, Vector
from tests.tasks import architectures, classifiers
from tests.tasks.conftest import Bench
from tests.tasks.real_lines import half_and_more

TEXTS = ["A short text.", "", "Several words of different lengths, such as these. " * 2, "émigré 東京 [SEP]"]
Changed = Callable[[Path], None]


@pytest.fixture(scope="module")
def inner(descriptions: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    return architectures.bert(tmp_path_factory.mktemp("inner"), descriptions[:40])


def saved(folder: Path, inner: Path, *others: nn.Module, **options: Any) -> Path:
    """Save a transformer with other modules after it, as the library does."""
    with quiet():
        first = Transformer(str(inner))
        SentenceTransformer(modules=[first, *others], device="cpu", **options).save(
            str(folder), create_model_card=False
        )
    return folder


def written(name: str, **changes: Any) -> Changed:
    """Return the function that changes a file of JSON in a model's folder."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))

    return change


def older(folder: Path) -> None:
    """Write the files as the library's first releases did."""
    modules = json.loads((folder / "modules.json").read_text())
    for one in modules:
        one["type"] = f"sentence_transformers.models.{one['type'].rpartition('.')[2]}"
    modules[0]["path"] = "0_Transformer"
    (folder / "0_Transformer").mkdir()
    for path in [*folder.iterdir()]:
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            shutil.move(path, folder / "0_Transformer" / path.name)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
    )


def alone(folder: Path) -> None:
    (folder / "modules.json").unlink()
    (folder / "sentence_bert_config.json").unlink()


SEVERAL: tuple[Callable[[], list[nn.Module]], Mapping[str, Any]] = (
    lambda: [Pooling(32, ("cls", "mean", "max", "lasttoken")), Dense(128, 16), Normalize()],
    {"truncate_dim": 9, "prompts": {"document": "text: ", "query": "q: "}, "default_prompt_name": "document"},
)
MEAN: tuple[Callable[[], list[nn.Module]], Mapping[str, Any]] = (lambda: [Pooling(32), Normalize()], {})
READ: dict[str, tuple[tuple[Callable[[], list[nn.Module]], Mapping[str, Any]], Changed]] = {
    "several": (SEVERAL, lambda _: None),
    "no-bias": ((lambda: [Pooling(32), Dense(32, 8, bias=False, activation_function=nn.ReLU())], {}), lambda _: None),
    "normalized-before": ((lambda: [Pooling(32), Normalize(), Dense(32, 8)], {}), lambda _: None),
    "short": (MEAN, written("sentence_bert_config.json", max_seq_length=20)),
    "older": (MEAN, older),
    "alone": (MEAN, alone),
}
LEFT: dict[str, tuple[tuple[Callable[[], list[nn.Module]], Mapping[str, Any]], Changed]] = {
    "residual": ((lambda: [Pooling(32), Dense(32, 32, use_residual=True)], {}), lambda _: None),
    "weighted": ((lambda: [Pooling(32, "weightedmean")], {}), lambda _: None),
    "lower": (MEAN, written("sentence_bert_config.json", do_lower_case=True)),
    "activation": ((lambda: [Pooling(32), Dense(32, 8, activation_function=nn.GELU())], {}), lambda _: None),
    "tokens": ((lambda: [Normalize("token_embeddings"), Pooling(32)], {}), lambda _: None),
    "without": (
        (lambda: [Pooling(32, include_prompt=False)], {"prompts": {"a": "text: "}, "default_prompt_name": "a"}),
        lambda _: None,
    ),
}


def loaded(folder: Path, cache_dir: Path, **params: Any) -> EncoderModel:
    spec = Spec(kind="embed", model=str(folder), revision="sha256:00", quality="float32", params=params)
    return pooling.load(Assignment(spec, folder, "cpu", cache_dir, Head.POOLING), torch.float32)


def vectors(model: EncoderModel, texts: list[str]) -> Any:
    batch = model.encode(texts)
    with torch.inference_mode():
        found = model.outputs(batch, model.own_states(batch))
    return np.stack([one.values for one in found if isinstance(one, Vector)])


@pytest.mark.parametrize("name", [*READ, *LEFT])
def test_usual_modules_are_read_here_and_others_left_to_sentence_transformers(
    name: str, inner: Path, tmp_path: Path
) -> None:
    (others, options), change = (READ | LEFT)[name]
    folder = saved(tmp_path / "model", inner, *others(), **options)
    change(folder)
    model = loaded(folder, tmp_path)
    assert model.library == ("transformers" if name in READ else "sentence-transformers")
    with quiet():
        own = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert model.limit_tokens == min(own.max_seq_length, 512)
    texts = [text for text, one in zip(TEXTS, model.encode(TEXTS), strict=True) if one.tokens <= model.limit_tokens]
    assert len(texts) == (3 if name == "short" else 4)
    assert np.allclose(vectors(model, texts), own.encode(texts, show_progress_bar=False), atol=1e-5)
    assert model.traits.normalizes is (own.truncate_dim is None and isinstance(own[-1], Normalize))


@half_and_more(["roberta", "distilbert", "deberta-v2", "electra", "modernbert"])
def test_other_encoders_are_read_too(name: str, descriptions: list[str], tmp_path: Path) -> None:
    folder = classifiers.classifier(tmp_path / "model", descriptions[:40], name)
    with quiet():
        own = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model, texts = loaded(folder, tmp_path), [TEXTS[0], TEXTS[1], TEXTS[3]]
    assert model.library == "transformers"
    assert np.allclose(vectors(model, texts), own.encode(texts, show_progress_bar=False), atol=1e-5)


@pytest.mark.parametrize("name", sorted(classifiers.READ_PADDING))
def test_a_vector_does_not_depend_on_longer_texts_beside_it(
    name: str, lines: list[str], bench: Bench, tmp_path: Path
) -> None:
    lines = lines[:12]
    of_funnel = ["FunnelModel"]  # which has two classes without a head
    folder = classifiers.classifier(tmp_path / "model", lines, name, head=AutoModel, architectures=of_funnel)
    outcomes = bench.run(bench.spec("embed", str(folder), pooling="mean"), lines)
    with quiet(), torch.inference_mode():
        model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        own = [model(**tokenizer(line, return_tensors="pt")).last_hidden_state[0].mean(0).numpy() for line in lines]
    for outcome, vector in zip(outcomes, own, strict=True):
        assert np.allclose(np.frombuffer(outcome.vector or b"", "<f4"), vector, atol=1e-4)


def test_another_pooling_takes_the_place_of_a_single_one(inner: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", inner, Pooling(32), Normalize())
    with quiet():
        own = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    own[1] = Pooling(32, "cls")
    model = loaded(folder, tmp_path, pooling="cls")
    assert model.library == "transformers"
    assert np.allclose(vectors(model, TEXTS), own.encode(TEXTS, show_progress_bar=False), atol=1e-5)
    several = saved(tmp_path / "several", inner, Pooling(32, ("cls", "mean")))
    with pytest.raises(CannotServe, match="joins several poolings"):
        loaded(several, tmp_path, pooling="cls")


@pytest.mark.parametrize(
    "change",
    [
        written("config.json", auto_map={"AutoModel": "code.Model"}),
        written("config.json", model_type="t5"),
        written("config.json", is_decoder=True),
        written("config.json", output_hidden_states=True),
        written("tokenizer_config.json", chat_template="{{ text }}"),
        written("preprocessor_config.json"),
        written("adapter_config.json"),
        written("sentence_bert_config.json", query_length=32),
        written("sentence_bert_config.json", max_seq_length=0),
        written("config_sentence_transformers.json", model_type="SparseEncoder"),
        written("config_sentence_transformers.json", default_prompt_name="missing"),
        written("config_sentence_transformers.json", prompts={"a": None}),
        written("config_sentence_transformers.json", truncate_dim="all"),
        written("config_sentence_transformers.json", requirements={"torch": ">99"}),
        written("1_Pooling/config.json", pooling_mode="attention"),
        written("1_Pooling/config.json", pooling_mode=[]),
        written("2_Normalize/config.json", module_input_name="token_embeddings"),
        lambda folder: (folder / "modules.json").write_text("[]"),
        lambda folder: (folder / "modules.json").write_text(
            (folder / "modules.json").read_text().replace("1_Pooling", "../1_Pooling")
        ),
        lambda folder: (folder / "modules.json").write_text(
            (folder / "modules.json").read_text().replace("sentence_transformers.base", "custom.base")
        ),
    ],
)  # fmt: skip
def test_a_model_with_anything_else_in_its_files_is_not_read(change: Changed, inner: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain(inner), tmp_path / "model")
    assert sentence_modules.read(folder) is not None
    change(folder)
    assert sentence_modules.read(folder) is None


def plain(inner: Path) -> Path:
    """Return the folder of a usual model, saved once for all tests."""
    folder = inner.parent / "plain"
    return folder if folder.exists() else saved(folder, inner, Pooling(32), Normalize())


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_a_pooling_is_that_of_sentence_transformers_bit_for_bit(name: Any) -> None:
    states = torch.randn(6, 70, 24, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(70)[None, :] < torch.tensor([70, 1, 2, 17, 33, 64])[:, None]).long()
    for side in (mask, mask.flip(1)):
        expected = Pooling(24, name)({"token_embeddings": states, "attention_mask": side})["sentence_embedding"]
        assert torch.equal(pooling.pool(states, side, [name]), expected)
