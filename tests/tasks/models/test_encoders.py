"""Encoders of another sort than `embed` wants are refused with what they are, and not embedded densely."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.multi_vector_encoder import MultiVectorEncoder
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.errors import CannotServe, ModelUnsuitable
from docmill.tasks.models import families
from docmill.tasks.models.encoders import Description, Sort, sort
from docmill.tasks.specs import pinning
from tests.tasks import architectures, decoders
from tests.tasks.conftest import Bench


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    """A masked language model, of which all others are made."""
    folder = tmp_path_factory.mktemp("bert")
    base = architectures.bert(folder / "base", descriptions[:40])
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    config = transformers.AutoConfig.from_pretrained(base)
    return architectures.save(folder / "mlm", transformers.BertForMaskedLM(config), tokenizer)


def splade(bert: Path, folder: Path) -> None:
    SparseEncoder(modules=[MLMTransformer(str(bert)), SpladePooling("max")]).save_pretrained(str(folder))


def colbert(bert: Path, folder: Path) -> None:
    MultiVectorEncoder(str(bert)).save_pretrained(str(folder))


def reranker(bert: Path, folder: Path) -> None:
    CrossEncoder(str(bert), num_labels=1).save_pretrained(str(folder))


SAVED: dict[Sort, Callable[[Path, Path], None]] = {
    Sort.SPARSE: splade,
    Sort.TOKENS: colbert,
    Sort.PAIRS: reranker,
}


@pytest.mark.parametrize("kind", SAVED)
def test_what_sentence_transformers_saved_is_told_apart_and_refused(
    kind: Sort, bert: Path, bench: Bench, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    with quiet():
        SAVED[kind](bert, folder)
    assert sort(Description.of_folder(folder)) is kind
    checked = pinning.check(str(folder), models_dir=None, cache_dir=bench.cache_dir)
    # A reranker scores a text alone, too.
    assert checked.kinds == {Sort.PAIRS: ("classify",), Sort.SPARSE: ("sparse",)}.get(kind, ())
    assert kind in checked.unfit["embed"]
    spec = Spec("embed", str(folder), checked.pinned.revision, "float32")
    with pytest.raises(CannotServe, match=r"embed needs a model that gives one vector for a text; .* is a"):
        open_backend(spec, device="cpu", models_dir=None, cache_dir=bench.cache_dir)
    with pytest.raises(ModelUnsuitable, match="one vector for a text"):
        pinning.require("embed", checked.pinned, models_dir=None)


@pytest.mark.parametrize("kind", SAVED)
def test_files_of_earlier_releases_without_a_type_are_told_apart_too(kind: Sort, bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    with quiet():
        SAVED[kind](bert, folder)
    (folder / "config_sentence_transformers.json").unlink()
    assert sort(Description.of_folder(folder)) is kind


def test_models_without_any_of_these_files_are_told_by_their_config() -> None:
    pairs = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    assert sort(Description(pairs)) is Sort.PAIRS
    assert sort(Description({"architectures": ["HF_ColBERT"], "model_type": "bert"})) is Sort.TOKENS
    old = {
        "architectures": ["BertForSequenceClassification"],
        "sbert_ce_default_activation_function": "torch.nn.Identity",
    }
    assert sort(Description(old)) is Sort.PAIRS
    many = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "good", "1": "bad"}}
    assert sort(Description(many)) is None
    assert sort(Description({"architectures": ["BertForMaskedLM"]})) is None
    assert sort(Description.of({}, {"modules.json": b"{", "config_sentence_transformers.json": b"[]"})) is None


def test_models_that_give_one_vector_are_taken_as_they_were(bert: Path, bench: Bench, tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    with quiet():
        reader = Transformer(str(bert))
        SentenceTransformer(modules=[reader, Pooling(reader.get_embedding_dimension(), "mean")]).save(str(dense))
    for folder in (dense, bert):
        assert pinning.check(str(folder), models_dir=None, cache_dir=bench.cache_dir).kinds == ("summarize", "embed")
        spec = bench.spec("embed", str(folder))
        open_backend(spec, device="cpu", models_dir=None, cache_dir=bench.cache_dir, backend="transformers").close()


def test_a_model_that_keeps_a_state_writes_nothing_and_says_what_it_is(
    bench: Bench, descriptions: list[str], tmp_path: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(decoders.gpt2(tmp_path / "gpt2", descriptions[:20]))
    config = transformers.MambaConfig(vocab_size=len(tokenizer), hidden_size=32, state_size=4, num_hidden_layers=2)
    folder = architectures.save(tmp_path / "mamba", transformers.MambaForCausalLM(config), tokenizer)
    checked = pinning.check(str(folder), models_dir=None, cache_dir=bench.cache_dir)
    assert checked.kinds == ("embed",)
    assert checked.unfit.keys() == {"summarize", "translate", "generate", "extract", "answer"}
    assert "is a state space or recurrent model (mamba)" in checked.unfit["generate"]
    with pytest.raises(ModelUnsuitable, match="state space or recurrent model"):
        bench.spec("generate", str(folder), prompt="{text}")
    spec = Spec("generate", str(folder), checked.pinned.revision, "float32", {"prompt": "{text}"})
    with pytest.raises(CannotServe, match="state space or recurrent model"):
        open_backend(spec, device="cpu", models_dir=None, cache_dir=bench.cache_dir)


@pytest.mark.parametrize("name", sorted(families.STATEFUL))
def test_the_models_that_keep_a_state_are_those_of_transformers(name: str) -> None:
    config = transformers.AutoConfig.for_model(name)
    model = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    assert model is None or model._is_stateful


def test_hybrids_are_told_by_their_layers() -> None:
    hybrid = {"architectures": ["NewForCausalLM"], "model_type": "new", "layer_types": ["conv", "full_attention"]}
    assert not kinds.kind("generate").suits(hybrid)
    assert not kinds.kind("generate").suits({"architectures": ["NewForCausalLM"], "text_config": hybrid})
    gemma = {**hybrid, "layer_types": ["sliding_attention", "full_attention"]}
    assert kinds.kind("generate").suits(gemma)


def test_a_copy_without_its_config_of_modules_is_still_no_dense_model(bert: Path, tmp_path: Path) -> None:
    """Of a cross-encoder, that is: its head gives one number."""
    with quiet():
        reranker(bert, tmp_path / "saved")
    bare = Path(shutil.copytree(tmp_path / "saved", tmp_path / "bare"))
    for name in ("modules.json", "config_sentence_transformers.json"):
        (bare / name).unlink(missing_ok=True)
    config = json.loads((bare / "config.json").read_text())
    config.pop("sentence_transformers", None)
    (bare / "config.json").write_text(json.dumps(config))
    assert sort(Description.of_folder(bare)) is Sort.PAIRS
