"""Facts from small files: encoders that `embed` does not want are refused, and languages are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from sentence_transformers import CrossEncoder, SparseEncoder
from sentence_transformers.multi_vector_encoder import MultiVectorEncoder
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
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
from docmill.tasks.specs.pinning import Pinned
from docmill.tasks.specs.plan import build_spec
from tests.tasks import architectures, decoders
from tests.tasks.backends.encoder.test_pooling import saved
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


SAVED: dict[str, Callable[[Path, Path], None]] = {
    families.SPARSE: splade,
    families.TOKENS: colbert,
    families.PAIRS: reranker,
}


@pytest.mark.parametrize("kind", SAVED)
def test_what_sentence_transformers_saved_is_told_apart_and_refused(
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


def test_models_without_any_of_these_files_are_told_by_their_config() -> None:
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


def test_models_that_give_one_vector_are_taken_as_they_were(bert: Path, bench: Bench, tmp_path: Path) -> None:
    for folder in (saved(tmp_path / "dense", bert, Pooling(32, "mean")), bert):
        assert pinning.check(str(folder), bench.folders).kinds == ("summarize", "embed")
        spec = bench.spec("embed", str(folder))
        bench.open(spec, backend="transformers").close()


def test_a_model_that_keeps_a_state_writes_nothing_and_says_what_it_is(
    bench: Bench, descriptions: list[str], tmp_path: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(decoders.gpt2(tmp_path / "gpt2", descriptions[:20]))
    config = transformers.MambaConfig(vocab_size=len(tokenizer), hidden_size=32, state_size=4, num_hidden_layers=2)
    folder = architectures.save(tmp_path / "mamba", transformers.MambaForCausalLM(config), tokenizer)
    checked = pinning.check(str(folder), bench.folders)
    assert checked.kinds == ("embed",)
    assert checked.unfit.keys() == {"summarize", "translate", "generate", "extract", "answer"}
    assert "is a state space or recurrent model (mamba)" in checked.unfit["generate"]
    with pytest.raises(ModelUnsuitable, match="state space or recurrent model"):
        bench.spec("generate", str(folder), prompt="{text}")
    spec = Spec("generate", str(folder), checked.pinned.revision, "float32", {"prompt": "{text}"})
    with pytest.raises(CannotServe, match="state space or recurrent model"):
        bench.open(spec)


SPANISH = Direction(("es",), ("en",))


def spec_with(direction: Direction, **options: str) -> Spec:
    return build_spec(
        "translate", Pinned("some/model", "0" * 40, direction), kinds.options("translate", **options), {}
    )


def marian(folder: Path, vocabulary: tuple[str, ...] = (), **tokenizer: Any) -> Path:
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
def test_an_opus_models_name_says_what_it_translates(name: str, expected: Direction) -> None:
    assert families.direction_of_name(name) == expected


def test_a_marian_models_files_say_more_than_its_name(tmp_path: Path) -> None:
    plain = marian(tmp_path / "opus-mt-es-en")
    assert families.direction_of_folder(plain) == SPANISH
    stated = marian(tmp_path / "a" / "opus-mt-es-en", source_lang="fra", target_lang="eng")
    assert families.direction_of_folder(stated) == Direction(("fr",), ("en",))
    tokens = marian(tmp_path / "opus-mt-en-roa", (">>fra<<", "word", ">>spa<<"), source_lang="en", target_lang="roa")
    assert families.direction_of_folder(tokens) == Direction(("en",), (), ("fra", "spa"))
    other = marian(tmp_path / "b" / "opus-mt-es-en")
    (other / "config.json").write_text('{"model_type": "t5"}')
    assert families.direction_of_folder(other) == UNKNOWN


def test_the_shipped_model_reads_french_and_spanish(tmp_path: Path) -> None:
    pinned = pinning.pin("marian-ddtp", ModelFolders(None, tmp_path))
    assert str(pinned.direction) == "from French or Spanish into English"
    with pytest.raises(BadOption) as refused:
        build_spec("translate", pinned, kinds.options("translate", source_lang="de", target_lang="en"), {})
    assert str(refused.value) == "--from de: marian-ddtp translates from French or Spanish into English."
    with pytest.raises(BadOption, match="--to fr: marian-ddtp translates from French"):
        build_spec("translate", pinned, kinds.options("translate", source_lang="es", target_lang="fr"), {})


def test_target_tokens_are_matched_and_one_must_be_chosen() -> None:
    romance = Direction(("en",), (), ("fra", "spa"))
    assert spec_with(romance, target_lang="fr") == spec_with(romance, source_lang="en", target_lang="fr")
    spec_with(Direction((), (), ("fra",)))
    with pytest.raises(BadOption, match="give --to, one of fra, spa"):
        spec_with(romance)
    with pytest.raises(BadOption, match="does not know the language de"):
        spec_with(romance, target_lang="de")


def test_text_that_is_no_json_or_no_object_is_an_empty_table(tmp_path: Path) -> None:
    assert [parse_object(data) for data in (b"{", b"[1]", b"\xff", None)] == [{}, {}, {}, {}]
    assert [parse_or_none(data) for data in (b"{", b"[1]", b"\xff", None)] == [None, [1], None, None]
    assert [read_file(tmp_path), read_file(tmp_path / "missing.json")] == [None, None]
