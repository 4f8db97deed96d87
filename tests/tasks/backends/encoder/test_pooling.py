"""Embedding models that docmill reads itself give the vectors of sentence-transformers."""

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
from transformers import AutoModel

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder import pooling
from docmill.tasks.backends.encoder.heads import EncoderModel
from docmill.tasks.errors import CannotServe
from docmill.tasks.models import sentence_modules
from docmill.tasks.models.sentence_modules import POOLINGS
from docmill.tasks.outputs import Head, Vector
from tests.tasks import classifiers
from tests.tasks.conftest import Bench, vectors_of
from tests.tasks.real_lines import half_and_more
from tests.tasks.reference import load_sentence_transformer, mean_states

TEXTS = ["A short text.", "", "Several words of different lengths, such as these. " * 2, "émigré 東京 [SEP]"]
Change = Callable[[Path], None]


def save_with_modules(folder: Path, inner: Path, *modules: nn.Module, **options: Any) -> Path:
    """Save a transformer and the modules after it with sentence-transformers."""
    with quiet():
        first = Transformer(str(inner))
        SentenceTransformer(modules=[first, *modules], device="cpu", **options).save(
            str(folder), create_model_card=False
        )
    return folder


def change_json(name: str, **changes: Any) -> Change:
    """Return a function that changes a JSON file in a model's folder."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))

    return change


def as_older(folder: Path) -> None:
    """Write the files as the first releases of sentence-transformers did."""
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    modules[0]["path"] = "0_Transformer"
    (folder / "0_Transformer").mkdir()
    for path in [*folder.iterdir()]:
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            shutil.move(path, folder / "0_Transformer" / path.name)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
    )


def unchanged(folder: Path) -> None:
    """Leave the files as they are."""


def without_modules(folder: Path) -> None:
    """Remove the files of sentence-transformers."""
    (folder / "modules.json").unlink()
    (folder / "sentence_bert_config.json").unlink()


@pytest.fixture(scope="module")
def plain(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with a mean and a normalization."""
    return save_with_modules(tmp_path_factory.mktemp("plain") / "model", bert, Pooling(32), Normalize())


# By name: the modules after the transformer with their options, and a change of the saved files.
Modules = tuple[Callable[[], list[nn.Module]], Mapping[str, Any]]
SEVERAL: Modules = (
    lambda: [Pooling(32, ("cls", "mean", "max", "lasttoken")), Dense(128, 16), Normalize()],
    {"truncate_dim": 9, "prompts": {"document": "text: ", "query": "q: "}, "default_prompt_name": "document"},
)
MEAN: Modules = (lambda: [Pooling(32), Normalize()], {})
READ: dict[str, tuple[Modules, Change]] = {
    "several": (SEVERAL, unchanged),
    "no-bias": ((lambda: [Pooling(32), Dense(32, 8, bias=False, activation_function=nn.ReLU())], {}), unchanged),
    "normalized-before": ((lambda: [Pooling(32), Normalize(), Dense(32, 8)], {}), unchanged),
    "short": (MEAN, change_json("sentence_bert_config.json", max_seq_length=20)),
    "older": (MEAN, as_older),
    "alone": (MEAN, without_modules),
}
LEFT: dict[str, tuple[Modules, Change]] = {
    "residual": ((lambda: [Pooling(32), Dense(32, 32, use_residual=True)], {}), unchanged),
    "weighted": ((lambda: [Pooling(32, "weightedmean")], {}), unchanged),
    "lower": (MEAN, change_json("sentence_bert_config.json", do_lower_case=True)),
    "activation": ((lambda: [Pooling(32), Dense(32, 8, activation_function=nn.GELU())], {}), unchanged),
    "tokens": ((lambda: [Normalize("token_embeddings"), Pooling(32)], {}), unchanged),
    "without": (
        (lambda: [Pooling(32, include_prompt=False)], {"prompts": {"a": "text: "}, "default_prompt_name": "a"}),
        unchanged,
    ),
}


def load(folder: Path, cache_dir: Path, **params: Any) -> EncoderModel:
    spec = Spec(kind="embed", model=str(folder), revision="sha256:00", quality="float32", params=params)
    return pooling.load(Assignment(spec, folder, "cpu", cache_dir, Head.POOLING), torch.float32)


def embed(model: EncoderModel, texts: list[str]) -> Any:
    batch = model.encode(texts)
    with torch.inference_mode():
        outputs = model.outputs(batch, model.own_states(batch))
    return np.stack([output.values for output in outputs if isinstance(output, Vector)])


@pytest.mark.parametrize("name", [*READ, *LEFT])
def test_docmill_reads_usual_modules_and_leaves_others_to_sentence_transformers(
    name: str, bert: Path, tmp_path: Path
) -> None:
    (modules, options), change = (READ | LEFT)[name]
    folder = save_with_modules(tmp_path / "model", bert, *modules(), **options)
    change(folder)
    model = load(folder, tmp_path)
    assert model.library == ("transformers" if name in READ else "sentence-transformers")
    reference = load_sentence_transformer(folder)
    assert model.limit_tokens == min(reference.max_seq_length, 512)
    windows = zip(TEXTS, model.encode(TEXTS), strict=True)
    texts = [text for text, window in windows if window.tokens <= model.limit_tokens]
    assert len(texts) == (3 if name == "short" else 4)
    assert np.allclose(embed(model, texts), reference.encode(texts, show_progress_bar=False), atol=1e-5)
    assert model.traits.normalizes is (reference.truncate_dim is None and isinstance(reference[-1], Normalize))


@half_and_more(["roberta", "distilbert", "deberta-v2", "electra", "modernbert"])
def test_other_encoders_are_read_too(name: str, descriptions: list[str], tmp_path: Path) -> None:
    folder = classifiers.classifier(tmp_path / "model", descriptions[:40], name)
    reference = load_sentence_transformer(folder)
    model, texts = load(folder, tmp_path), [TEXTS[0], TEXTS[1], TEXTS[3]]
    assert model.library == "transformers"
    assert np.allclose(embed(model, texts), reference.encode(texts, show_progress_bar=False), atol=1e-5)


@pytest.mark.parametrize("name", sorted(classifiers.READ_PADDING))
def test_a_vector_does_not_depend_on_longer_texts_beside_it(
    name: str, lines: list[str], bench: Bench, tmp_path: Path
) -> None:
    lines = lines[:12]
    of_funnel = ["FunnelModel"]  # Funnel has two classes without a head
    folder = classifiers.classifier(tmp_path / "model", lines, name, head=AutoModel, architectures=of_funnel)
    actual = vectors_of(bench.run(bench.spec("embed", folder, pooling="mean"), lines))
    assert np.allclose(actual, mean_states(folder, lines), atol=1e-4)


def test_another_pooling_takes_the_place_of_a_single_one(bert: Path, tmp_path: Path) -> None:
    folder = save_with_modules(tmp_path / "model", bert, Pooling(32), Normalize())
    reference = load_sentence_transformer(folder)
    reference[1] = Pooling(32, "cls")
    model = load(folder, tmp_path, pooling="cls")
    assert model.library == "transformers"
    assert np.allclose(embed(model, TEXTS), reference.encode(TEXTS, show_progress_bar=False), atol=1e-5)
    several = save_with_modules(tmp_path / "several", bert, Pooling(32, ("cls", "mean")))
    with pytest.raises(CannotServe, match="joins several poolings"):
        load(several, tmp_path, pooling="cls")


@pytest.mark.parametrize(
    "change",
    [
        change_json("config.json", auto_map={"AutoModel": "code.Model"}),
        change_json("config.json", model_type="t5"),
        change_json("config.json", is_decoder=True),
        change_json("config.json", output_hidden_states=True),
        change_json("tokenizer_config.json", chat_template="{{ text }}"),
        change_json("preprocessor_config.json"),
        change_json("adapter_config.json"),
        change_json("sentence_bert_config.json", query_length=32),
        change_json("sentence_bert_config.json", max_seq_length=0),
        change_json("config_sentence_transformers.json", model_type="SparseEncoder"),
        change_json("config_sentence_transformers.json", default_prompt_name="missing"),
        change_json("config_sentence_transformers.json", prompts={"a": None}),
        change_json("config_sentence_transformers.json", truncate_dim="all"),
        change_json("config_sentence_transformers.json", requirements={"torch": ">99"}),
        change_json("1_Pooling/config.json", pooling_mode="attention"),
        change_json("1_Pooling/config.json", pooling_mode=[]),
        change_json("2_Normalize/config.json", module_input_name="token_embeddings"),
        lambda folder: (folder / "modules.json").write_text("[]"),
        lambda folder: (folder / "modules.json").write_text(
            (folder / "modules.json").read_text().replace("1_Pooling", "../1_Pooling")
        ),
        lambda folder: (folder / "modules.json").write_text(
            (folder / "modules.json").read_text().replace("sentence_transformers.base", "custom.base")
        ),
    ],
)  # fmt: skip
def test_a_model_with_anything_else_in_its_files_is_not_read(change: Change, plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "model")
    assert sentence_modules.read(folder) is not None
    change(folder)
    assert sentence_modules.read(folder) is None


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_a_pooling_is_equal_to_that_of_sentence_transformers_bit_for_bit(name: Any) -> None:
    states = torch.randn(6, 70, 24, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(70)[None, :] < torch.tensor([70, 1, 2, 17, 33, 64])[:, None]).long()
    for side in (mask, mask.flip(1)):
        expected = Pooling(24, name)({"token_embeddings": states, "attention_mask": side})["sentence_embedding"]
        assert torch.equal(pooling.pool(states, side, [name]), expected)
