"""Small files tell which encoders `embed` refuses, and what a model translates."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from sentence_transformers import CrossEncoder, SparseEncoder
from sentence_transformers.multi_vector_encoder import MultiVectorEncoder
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

from docmill.storage.core.specs import Spec
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.errors import BadOption, CannotServe, ModelUnsuitable
from docmill.tasks.models import families
from docmill.tasks.models.families import (
    UNKNOWN,
    Description,
    Direction,
    find_encoder_type,
    parse_object,
    parse_or_none,
    read_file,
)
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from tests.tasks import architectures, classifiers, decoders
from tests.tasks.backends.encoder.test_pooling import save_with_modules
from tests.tasks.conftest import Bench
from tests.tasks.fakes import PINNED, plan_spec


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    """Return the folder of a masked language model, which the other models are made of."""
    folder = tmp_path_factory.mktemp("bert") / "mlm"
    return classifiers.classifier(folder, descriptions[:40], "bert", head=transformers.AutoModelForMaskedLM)


def save_splade(bert: Path, folder: Path) -> None:
    SparseEncoder(modules=[MLMTransformer(str(bert)), SpladePooling("max")]).save_pretrained(str(folder))


def save_colbert(bert: Path, folder: Path) -> None:
    MultiVectorEncoder(str(bert)).save_pretrained(str(folder))


def save_reranker(bert: Path, folder: Path) -> None:
    CrossEncoder(str(bert), num_labels=1).save_pretrained(str(folder))


SAVED: dict[str, Callable[[Path, Path], None]] = {
    families.SPARSE: save_splade,
    families.TOKENS: save_colbert,
    families.PAIRS: save_reranker,
}


@pytest.mark.parametrize("kind", SAVED)
def test_sparse_encoders_colberts_and_rerankers_are_told_apart_and_not_embedded_with(
    kind: str, bert: Path, bench: Bench, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    with quiet():
        SAVED[kind](bert, folder)
    assert find_encoder_type(Description.of_folder(folder)) == kind
    checked = pinning.check(str(folder), bench.folders)
    # A reranker scores a text alone, too.
    assert checked.kinds == {families.PAIRS: ("classify",), families.SPARSE: ("sparse",)}.get(kind, ())
    assert kind in checked.unfit["embed"]
    spec = Spec("embed", str(folder), checked.pinned.revision, "float32")
    with pytest.raises(CannotServe, match=r"embed needs a model that gives one vector for a text; .* is a"):
        bench.open(spec)
    with pytest.raises(ModelUnsuitable, match="one vector for a text"):
        pinning.require("embed", checked.pinned, bench.folders)


def test_models_without_sentence_transformers_files_are_told_apart_by_their_config() -> None:
    pairs = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    assert find_encoder_type(Description(pairs)) == families.PAIRS
    assert find_encoder_type(Description({"architectures": ["HF_ColBERT"], "model_type": "bert"})) == families.TOKENS
    old = {
        "architectures": ["BertForSequenceClassification"],
        "sbert_ce_default_activation_function": "torch.nn.Identity",
    }
    assert find_encoder_type(Description(old)) == families.PAIRS
    many = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "good", "1": "bad"}}
    assert find_encoder_type(Description(many)) is None
    assert find_encoder_type(Description({"architectures": ["BertForMaskedLM"]})) is None
    assert (
        find_encoder_type(Description.of({}, {"modules.json": b"{", "config_sentence_transformers.json": b"[]"}))
        is None
    )


def test_models_that_give_one_vector_embed(bert: Path, bench: Bench, tmp_path: Path) -> None:
    for folder in (save_with_modules(tmp_path / "dense", bert, Pooling(32, "mean")), bert):
        assert pinning.check(str(folder), bench.folders).kinds == ("summarize", "embed")
        spec = bench.spec("embed", folder)
        bench.open(spec, backend="transformers").close()


def test_a_state_space_model_embeds_and_does_not_write(bench: Bench, descriptions: list[str], tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(decoders.gpt2(tmp_path / "gpt2", descriptions[:20]))
    config = transformers.MambaConfig(vocab_size=len(tokenizer), hidden_size=32, state_size=4, num_hidden_layers=2)
    folder = architectures.save(tmp_path / "mamba", transformers.MambaForCausalLM(config), tokenizer)
    checked = pinning.check(str(folder), bench.folders)
    assert checked.kinds == ("embed",)
    assert checked.unfit.keys() == {"summarize", "translate", "generate", "extract", "answer"}
    assert "is a state space or recurrent model (mamba)" in checked.unfit["generate"]
    with pytest.raises(ModelUnsuitable, match="state space or recurrent model"):
        bench.spec("generate", folder, prompt="{text}")
    spec = Spec("generate", str(folder), checked.pinned.revision, "float32", {"prompt": "{text}"})
    with pytest.raises(CannotServe, match="state space or recurrent model"):
        bench.open(spec)


SPANISH = Direction(("es",), ("en",))


def plan_translation(direction: Direction, **options: Any) -> Spec:
    return plan_spec("translate", pinned=replace(PINNED, direction=direction), **options)


def save_marian(folder: Path, vocabulary: tuple[str, ...] = (), **tokenizer: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "marian"}')
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Helsinki-NLP/opus-mt-es-en", SPANISH),
        ("Helsinki-NLP/opus-mt-tc-big-cat_oci_spa-en", Direction(("ca", "oc", "es"), ("en",))),
        ("/models/opus-mt-en-ROMANCE", Direction(("en",), ())),
        ("Helsinki-NLP/opus-mt-mul-en", Direction((), ("en",))),
        ("t5-small", UNKNOWN),
        ("someone/es-en", UNKNOWN),
    ],
)
def test_an_opus_models_name_tells_its_languages(name: str, expected: Direction) -> None:
    assert families.direction_of_name(name) == expected


def test_a_marian_models_files_count_more_than_its_name(tmp_path: Path) -> None:
    plain = save_marian(tmp_path / "opus-mt-es-en")
    assert families.direction_of_folder(plain) == SPANISH
    stated = save_marian(tmp_path / "a" / "opus-mt-es-en", source_lang="fra", target_lang="eng")
    assert families.direction_of_folder(stated) == Direction(("fr",), ("en",))
    vocabulary = (">>fra<<", "word", ">>spa<<")
    tokens = save_marian(tmp_path / "opus-mt-en-roa", vocabulary, source_lang="en", target_lang="roa")
    assert families.direction_of_folder(tokens) == Direction(("en",), (), ("fra", "spa"))
    not_marian = save_marian(tmp_path / "b" / "opus-mt-es-en")
    (not_marian / "config.json").write_text('{"model_type": "t5"}')
    assert families.direction_of_folder(not_marian) == UNKNOWN


def test_the_shipped_model_reads_french_and_spanish(tmp_path: Path) -> None:
    pinned = pinning.pin("marian-ddtp", ModelFolders(None, tmp_path))
    assert str(pinned.direction) == "from French or Spanish into English"
    with pytest.raises(BadOption) as refused:
        plan_spec("translate", pinned=pinned, source_lang="de", target_lang="en")
    assert str(refused.value) == "--from de: marian-ddtp translates from French or Spanish into English."
    with pytest.raises(BadOption, match="--to fr: marian-ddtp translates from French"):
        plan_spec("translate", pinned=pinned, source_lang="es", target_lang="fr")


def test_target_tokens_are_matched_and_one_must_be_chosen() -> None:
    romance = Direction(("en",), (), ("fra", "spa"))
    spec = plan_translation(romance, target_lang="fr")
    assert plan_translation(romance, source_lang="en", target_lang="fr") == spec
    plan_translation(Direction((), (), ("fra",)))
    with pytest.raises(BadOption, match="give --to, one of fra, spa"):
        plan_translation(romance)
    with pytest.raises(BadOption, match="does not know the language de"):
        plan_translation(romance, target_lang="de")


def test_a_file_without_a_json_object_is_an_empty_table(tmp_path: Path) -> None:
    assert [parse_object(data) for data in (b"{", b"[1]", b"\xff", None)] == [{}, {}, {}, {}]
    assert [parse_or_none(data) for data in (b"{", b"[1]", b"\xff", None)] == [None, [1], None, None]
    assert [read_file(tmp_path), read_file(tmp_path / "missing.json")] == [None, None]
