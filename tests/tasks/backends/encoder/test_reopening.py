"""A model that was opened before gives the same again, without the libraries that described it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification, AutoTokenizer

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder import fast_tokenizer, heads, reopening
from docmill.tasks.backends.encoder.array_heads import outputs_of
from docmill.tasks.backends.encoder.converted.compiled import CompiledEncoder
from docmill.tasks.backends.encoder.converted.kept_backend import KeptBackend, reopened
from docmill.tasks.backends.encoder.converted.openvino_backend import OpenVinoBackend
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder.kept_heads import KeptHead, pooled
from docmill.tasks.backends.encoder.kernels import OneDnnLinear
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.batching import Item, Pool
from docmill.tasks.engine.backend_factory import Place, modules
from docmill.tasks.models.sentence_modules import POOLINGS
from docmill.tasks.outputs import Head, Labels, Output, SpanScores, TokenScores, Vector, Weights
from docmill.tasks.specs import pinning
from docmill.tasks.windows.windows import Encoded
from tests.tasks import architectures, classifiers
from tests.tasks.backends.encoder.test_weighting import splade
from tests.tasks.conftest import Bench
from tests.tasks.real_lines import half_and_more

Make = Callable[[Path, list[str]], Path]
OPEN = """
import sys
from pathlib import Path
from docmill.storage.core.specs import Spec
from docmill.tasks.engine.backend_factory import open_backend

spec = Spec.from_json(sys.argv[1])
open_backend(spec, device="cpu", models_dir=None, cache_dir=Path(sys.argv[2]), backend=sys.argv[3])
libraries = {"sentence_transformers", "transformers", "torch", "sklearn", "pandas", "scipy"}
print(*(libraries & {*sys.modules}))
"""


def _embedding(folder: Path, texts: list[str]) -> Path:
    """An embedding model whose vectors are several poolings side by side, made smaller and of length 1."""
    inner = Transformer(str(architectures.bert(folder / "words", texts)))
    modules = [inner, Pooling(32, ("cls", "mean", "max", "lasttoken")), Dense(128, 16), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def _classifier(name: str, **options: Any) -> Make:
    return lambda folder, texts: classifiers.classifier(folder, texts, name, **options)


TAGGER = {"head": AutoModelForTokenClassification}
ANSWERER: dict[str, Any] = {"head": AutoModelForQuestionAnswering, "id2label": {0: "start", 1: "end"}}
KEPT: dict[str, tuple[str, Head, Make]] = {
    "embed-bert": ("embed", Head.POOLING, _embedding),
    "embed-roberta": ("embed", Head.POOLING, architectures.roberta),
    **{
        f"classify-{name}": ("classify", Head.CLASSIFICATION, _classifier(name))
        for name in ("bert", "roberta", "distilbert")
    },
    **{
        f"entities-{name}": ("entities", Head.TAGGING, _classifier(name, **TAGGER))
        for name in ("bert", "xlm-roberta", "distilbert")
    },
    **{
        f"answer-{name}": ("answer", Head.ANSWERING, _classifier(name, **ANSWERER))
        for name in ("bert", "roberta", "distilbert")
    },
}
TEXTS = ["A short text.", "", "Several words of different lengths, such as these. " * 2, "émigré 東京 [SEP]"]


def assigned(kind: str, head: Head, folder: Path, cache_dir: Path) -> Assignment:
    spec = Spec(kind=kind, model=str(folder), revision="sha256:00", quality="float32")
    return Assignment(spec, folder, "cpu", cache_dir, head)


def outputs(opened: EncoderBackend | KeptBackend, texts: Sequence[str] = TEXTS) -> list[object]:
    """Return the outputs for texts, each alone, in a form that is equal only where all bits are."""
    with closing(opened):
        found = []
        for one in opened.encode(texts):
            waiting: Pool[Any] = Pool()
            waiting.add([Item(0, one, None)])
            found += [_bits(output) for _, output in opened.run(waiting)]
    return found


def _bits(output: Output) -> object:
    if isinstance(output, Vector):
        return output.values.tobytes()
    if isinstance(output, Weights):
        return [*map(output.vocabulary.tokens.__getitem__, output.ids)], output.values.tobytes()
    if isinstance(output, SpanScores):
        return output.starts.tobytes(), output.ends.tobytes(), output.null
    return (output.labels, output.scores.tobytes()) if isinstance(output, TokenScores) else output


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which no head can be loaded with a library any more."""

    def refused(*_: object) -> None:
        raise AssertionError("a library reads the model's files")

    return lambda: monkeypatch.setattr(heads, "load", refused)


def are_near(found: object, wanted: object) -> bool:
    """Return True for equal outputs. On some processors the last bits depend on where the weights lie in memory."""
    if isinstance(found, bytes) and isinstance(wanted, bytes):
        one, other = (np.frombuffer(bits, np.float32) for bits in (found, wanted))
        return one.shape == other.shape and np.allclose(one, other, rtol=1e-4, atol=1e-6)
    if isinstance(found, Labels) and isinstance(wanted, Labels):
        return dict(found.scores) == pytest.approx(dict(wanted.scores), rel=1e-4)
    if isinstance(found, float) and isinstance(wanted, float):
        return found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    if isinstance(found, tuple | list) and isinstance(wanted, tuple | list):
        return len(found) == len(wanted) and all(map(are_near, found, wanted))
    return found == wanted


@half_and_more(KEPT)
def test_a_model_that_is_opened_again_gives_the_same(
    name: str, descriptions: list[str], tmp_path: Path, no_library: Callable[[], None]
) -> None:
    kind, head, make = KEPT[name]
    given = assigned(kind, head, make(tmp_path / "model", descriptions[:40]), tmp_path / "cache")
    backends: tuple[type[EncoderBackend], ...] = (EncoderBackend, OpenVinoBackend)
    opened = [backend(given) for backend in backends]
    first = [(one.limit_tokens, one.traits.normalizes, one.runtime(), outputs(one)) for one in opened]
    no_library()
    opened = [backend(given) for backend in backends]
    again = [(one.limit_tokens, one.traits.normalizes, one.runtime(), outputs(one)) for one in opened]
    assert are_near(again, first), (again, first)
    without_torch = reopened(given)
    assert without_torch is not None
    limit, normalizes = without_torch.limit_tokens, without_torch.traits.normalizes
    alone = (limit, normalizes, without_torch.runtime(), outputs(without_torch))
    assert are_near(alone, first[1]), (alone, first[1])


@pytest.mark.parametrize(
    ("name", "backend"), [("bert", EncoderBackend), ("bert", OpenVinoBackend), ("roberta", EncoderBackend)]
)
def test_a_sparse_encoder_that_is_opened_again_gives_the_same_and_keeps_no_second_copy_of_its_weights(
    name: str,
    backend: type[EncoderBackend],
    descriptions: list[str],
    tmp_path: Path,
    no_library: Callable[[], None],
) -> None:
    folder = splade(tmp_path / "model", descriptions[:40], name)
    given = assigned("sparse", Head.VOCABULARY, folder, tmp_path / "cache")
    opened = backend(given)
    vocabulary = opened._model.tokens.tokenizer.vocab_size  # type: ignore[union-attr]
    first = opened.runtime(), outputs(opened)
    no_library()
    opened = backend(given)
    again = opened.runtime(), outputs(opened)
    assert are_near(again, first), (again, first)
    (tensors,) = (tmp_path / "cache").glob("opened/*/tensors.safetensors")
    kept = load_file(tensors)
    assert "head dense.weight" in kept
    assert all(one.shape[0] < vocabulary for one in kept.values() if one.dim() > 1)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_question_stands_at_its_place_in_a_model_that_is_opened_again(
    side: str, descriptions: list[str], tmp_path: Path, no_library: Callable[[], None]
) -> None:
    folder = classifiers.classifier(tmp_path / "model", descriptions[:40], "bert", **ANSWERER)
    AutoTokenizer.from_pretrained(folder, padding_side=side).save_pretrained(folder)
    given = assigned("answer", Head.ANSWERING, folder, tmp_path / "cache")
    found = []
    steps: tuple[Callable[[], None], ...] = (lambda: None, no_library)
    for prepare in steps:
        prepare()
        with closing(EncoderBackend(given)) as opened:
            assert opened.traits.pairs is not None
            found.append(opened.traits.pairs("What is it?").encode(TEXTS))
    assert found[0] == found[1]
    own = AutoTokenizer.from_pretrained(folder)
    pair = ("What is it?", TEXTS[0]) if side == "right" else (TEXTS[0], "What is it?")
    assert [*found[1][0].ids] == own(*pair)["input_ids"]


def test_an_encoder_of_another_design_is_opened_again_on_openvino(
    descriptions: list[str], tmp_path: Path, no_library: Callable[[], None]
) -> None:
    folder = classifiers.classifier(tmp_path / "model", descriptions[:40], "electra")
    given = assigned("embed", Head.POOLING, folder, tmp_path / "cache")
    first = outputs(OpenVinoBackend(given))
    no_library()
    assert outputs(OpenVinoBackend(given)) == first


@pytest.mark.parametrize(("backend", "needed"), [("transformers", {"torch"}), ("openvino", set())])
def test_a_model_that_was_embedded_before_needs_no_library_but_that_which_computes(
    backend: str, needed: set[str], benches: Callable[[str], Bench]
) -> None:
    bench = benches(backend)
    spec = bench.spec("embed", "minilm")
    bench.engine.open(spec)
    assert loaded(spec, bench.cache_dir, bench.backend) == needed


def test_a_model_with_a_merged_adapter_that_was_opened_before_needs_no_library(
    benches: Callable[[str], Bench], tmp_path: Path
) -> None:
    spec = benches("openvino").spec("classify", "classes-ddtp")
    assert "torch" in loaded(spec, tmp_path, "openvino")
    assert loaded(spec, tmp_path, "openvino") == set()
    assert modules(spec, Place("cpu", None, tmp_path, "openvino")) == [reopened.__module__]


def test_the_first_opening_of_an_embedding_model_needs_transformers_alone(
    descriptions: list[str], tmp_path: Path
) -> None:
    folder = architectures.bert(tmp_path / "model", descriptions[:40])
    pinned, _ = pinning.pin_with_adapter(str(folder), None, models_dir=None, cache_dir=tmp_path / "cache")
    spec = Spec("embed", pinned.model, pinned.revision, quality="float32")
    assert loaded(spec, tmp_path / "cache", "transformers") <= {"torch", "transformers", "scipy"}


def loaded(spec: Spec, cache_dir: Path, backend: str) -> set[str]:
    """Return the libraries that a new process has loaded after it opened a spec."""
    command = [sys.executable, "-W", "error", "-c", OPEN, spec.to_json().decode(), str(cache_dir), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {*done.stdout.split()}


def test_an_encoder_that_computes_otherwise_than_before_is_left_to_the_models_own_code(
    descriptions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_numbers(_: OneDnnLinear, residual: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        return residual + 0.9 * residual.roll(1)

    given = assigned("embed", Head.POOLING, architectures.bert(tmp_path / "model", descriptions[:40]), tmp_path)
    first = np.frombuffer(b"".join(map(bytes, outputs(EncoderBackend(given)))), np.float32)  # type: ignore[arg-type]
    monkeypatch.setattr(OneDnnLinear, "added_to", other_numbers)
    found = np.frombuffer(b"".join(map(bytes, outputs(EncoderBackend(given)))), np.float32)  # type: ignore[arg-type]
    assert np.allclose(found, first, atol=1e-5)
    assert not [*tmp_path.glob("opened/*/facts.json")]


def test_weights_that_changed_give_what_they_give_at_a_first_opening(descriptions: list[str], tmp_path: Path) -> None:
    folder = architectures.bert(tmp_path / "model", descriptions[:40])
    given = assigned("embed", Head.POOLING, folder, tmp_path / "cache")
    first = outputs(EncoderBackend(given))
    weights = load_file(folder / "model.safetensors")
    save_file({name: one.roll(1) for name, one in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    second = outputs(EncoderBackend(given))
    assert second != first
    assert outputs(EncoderBackend(assigned("embed", Head.POOLING, folder, tmp_path / "another"))) == second
    assert outputs(EncoderBackend(given)) == second


@pytest.mark.parametrize("file", ["facts.json", "tokenizer.json", "tensors.safetensors", "fingerprint"])
def test_a_folder_of_the_cache_that_is_damaged_is_made_again(
    file: str, descriptions: list[str], tmp_path: Path, no_library: Callable[[], None]
) -> None:
    given = assigned("embed", Head.POOLING, architectures.bert(tmp_path / "model", descriptions[:40]), tmp_path)
    first = outputs(EncoderBackend(given))
    (kept,) = (tmp_path / "opened").glob(f"*/{file}")
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert outputs(EncoderBackend(given)) == first
    no_library()
    assert outputs(EncoderBackend(given)) == first


def test_the_opening_that_was_used_longest_ago_is_removed(
    descriptions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening, "_MOST_KEPT", 2)
    model = architectures.bert(tmp_path / "model", descriptions[:40])
    places: dict[str, Path] = {}
    for second, pooling in enumerate(("mean", "cls", "mean", "last"), 1):  # the second time it is opened again
        before = opened(tmp_path)
        given = assigned("embed", Head.POOLING, model, tmp_path)
        outputs(EncoderBackend(replace(given, spec=replace(given.spec, params={"pooling": pooling}))))
        for place in opened(tmp_path) - before:
            places[pooling] = place
        os.utime(places[pooling], (second, second))
    assert opened(tmp_path) == {places["mean"], places["last"]}


def opened(cache_dir: Path) -> set[Path]:
    """Return the folders of openings that the cache keeps."""
    return {facts.parent for facts in cache_dir.glob("opened/*/facts.json")}


def test_a_head_that_does_more_is_left_to_its_library(descriptions: list[str], tmp_path: Path) -> None:
    inner = Transformer(str(architectures.bert(tmp_path / "words", descriptions[:40])))
    residual = Dense(32, 32, use_residual=True)
    model = SentenceTransformer(modules=[inner, Pooling(32, "mean"), residual], device="cpu")
    model.save(str(tmp_path / "model"), create_model_card=False)
    given = assigned("embed", Head.POOLING, tmp_path / "model", tmp_path)
    expected = model.encode(TEXTS, show_progress_bar=False)
    for _ in range(2):
        found = np.stack([np.frombuffer(bits, np.float32) for bits in outputs(EncoderBackend(given))])  # type: ignore[call-overload]
        assert np.allclose(found, expected, atol=1e-5)
    assert not [*tmp_path.glob("opened/*/facts.json")]


def test_an_encoder_that_computes_otherwise_than_before_is_not_opened_again_without_torch(
    descriptions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = assigned("embed", Head.POOLING, architectures.bert(tmp_path / "model", descriptions[:40]), tmp_path)
    first = outputs(OpenVinoBackend(given))
    own = CompiledEncoder.__call__

    def other_numbers(self: CompiledEncoder, batch: Sequence[Encoded]) -> Any:
        found = own(self, batch)
        return {**found, "token_embeddings": np.roll(found["token_embeddings"], 1, axis=-1)}

    with monkeypatch.context() as planted:
        planted.setattr(CompiledEncoder, "__call__", other_numbers)
        assert reopened(given) is None
    again = reopened(given)
    assert again is not None
    assert are_near(outputs(again), first)


def test_heads_on_arrays_give_what_they_give_in_torch() -> None:
    draw = torch.Generator().manual_seed(1)
    states = torch.randn(6, 30, 24, generator=draw)
    mask = (torch.arange(30)[None, :] < torch.tensor([30, 1, 2, 17, 29, 9])[:, None]).long()
    tensors = {
        "0.weight": torch.randn(3, 24, generator=draw),
        "0.bias": torch.randn(3, generator=draw),
        "labels": torch.randn(3, 24, generator=draw),
    }
    scoring = {"names": ["a", "b"], "places": [0, 2]}
    linear = {"activations": ["tanh"], "of_first": True}
    vectors: dict[str, Any] = {"poolings": ["mean"], "steps": [{"step": "normalize"}], "dimensions": None}
    product = {"step": "linear", "name": "0", "activation": "relu"}
    settings: list[dict[str, Any]] = [
        {"type": "vectors", **vectors, "poolings": sorted(POOLINGS), "dimensions": 50},
        {"type": "vectors", **vectors, "steps": [product, {"step": "normalize"}]},
        {"type": "nearness", **vectors, "labels": ["a", "b", "c"]},
        *(
            {"type": "labels", **linear, "scoring": {**scoring, "scores": name}}
            for name in ("none", "sigmoid", "softmax")
        ),
    ]
    for side in (mask, mask.flip(1)):
        features = {"token_embeddings": states, "attention_mask": side}
        for one in settings:
            expected = KeptHead(one, tensors).outputs()([], features)
            given = {name: tensor.numpy() for name, tensor in features.items()}
            found = outputs_of(one, {name: tensor.numpy() for name, tensor in tensors.items()})([], given)
            assert are_near([_bits(output) for output in found], [_bits(output) for output in expected]), one


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_a_pooling_is_that_of_sentence_transformers_bit_for_bit(pooling: Any) -> None:
    states = torch.randn(6, 70, 24, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(70)[None, :] < torch.tensor([70, 1, 2, 17, 33, 64])[:, None]).long()
    for side in (mask, mask.flip(1)):
        expected = Pooling(24, pooling)({"token_embeddings": states, "attention_mask": side})["sentence_embedding"]
        assert torch.equal(pooled(states, side, [pooling]), expected)


def test_a_tokenizer_that_is_kept_gives_the_same_tokens(descriptions: list[str], tmp_path: Path) -> None:
    for make in (architectures.bert, architectures.roberta):
        with quiet():
            own = Tokens(AutoTokenizer.from_pretrained(make(tmp_path / make.__name__, descriptions[:40])), "query: ")
        kept = fast_tokenizer.kept(own.tokenizer, own.stated_limit)
        assert kept is not None
        again = Tokens(fast_tokenizer.again(*kept), "query: ")
        assert again.encode(descriptions) == own.encode(descriptions)
        assert again.paired("A second text.").encode(TEXTS) == own.paired("A second text.").encode(TEXTS)
        assert (again.overhead, again.prefix_length, again.stated_limit) == (
            own.overhead,
            own.prefix_length,
            own.stated_limit,
        )


def test_a_tokenizer_that_splits_special_tokens_is_not_kept(tmp_path: Path) -> None:
    with quiet():
        own = AutoTokenizer.from_pretrained(architectures.bert(tmp_path / "bert", ["A text."]))
    assert fast_tokenizer.kept(own, None) is not None
    own.split_special_tokens = True
    assert fast_tokenizer.kept(own, None) is None
