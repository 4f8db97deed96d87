"""A converted model gives what the model's own code gives, and needs no library of models when it is opened again."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification, AutoTokenizer

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder import conversion, heads
from docmill.tasks.backends.encoder.converted import ConvertedModel, FastTokenizer, facts_of
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder.openvino_backend import OpenVinoBackend
from docmill.tasks.backends.tokens import Tokens
from docmill.tasks.errors import Unsuited
from docmill.tasks.outputs import Head, Labels, Output, SpanScores, TokenScores, Vector, Weights
from docmill.tasks.windows.windows import Encoded
from tests.tasks import architectures, classifiers
from tests.tasks.backends.encoder.test_pooling import TEXTS, saved
from tests.tasks.backends.encoder.test_weighting import splade
from tests.tasks.conftest import Benches
from tests.tasks.fakes import waiting
from tests.tasks.real_lines import half_and_more

Make = Callable[[Path, list[str]], Path]
OPEN = """
import sys
from pathlib import Path
from docmill.storage.core.specs import Spec
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.models.weights import ModelFolders

spec = Spec.from_json(sys.argv[1])
open_backend(spec, device="cpu", folders=ModelFolders(None, Path(sys.argv[2])), backend=sys.argv[3])
libraries = {"sentence_transformers", "transformers", "torch", "sklearn", "pandas", "scipy"}
print(*(libraries & {*sys.modules}))
"""


def _embedding(folder: Path, texts: list[str]) -> Path:
    """An embedding model whose vectors are several poolings side by side, made smaller and of length 1."""
    inner, pooling = architectures.bert(folder / "words", texts), Pooling(32, ("cls", "mean", "max", "lasttoken"))
    return saved(folder / "model", inner, pooling, Dense(128, 16), Normalize())


def _residual(folder: Path, texts: list[str]) -> Path:
    """An embedding model that sentence-transformers opens."""
    inner = architectures.bert(folder / "words", texts)
    return saved(folder / "model", inner, Pooling(32, "mean"), Dense(32, 32, use_residual=True))


def _classifier(name: str, **options: Any) -> Make:
    return lambda folder, texts: classifiers.classifier(folder, texts, name, **options)


TAGGER = {"head": AutoModelForTokenClassification}
ANSWERER: dict[str, Any] = {"head": AutoModelForQuestionAnswering, "id2label": {0: "start", 1: "end"}}
MODELS: dict[str, tuple[str, Head, Make]] = {
    "embed-bert": ("embed", Head.POOLING, _embedding),
    "embed-electra": ("embed", Head.POOLING, _classifier("electra")),
    "embed-residual": ("embed", Head.POOLING, _residual),
    "embed-roberta": ("embed", Head.POOLING, architectures.roberta),
    "classify-bert": ("classify", Head.CLASSIFICATION, _classifier("bert")),
    "classify-roberta": ("classify", Head.CLASSIFICATION, _classifier("roberta")),
    "classify-electra": ("classify", Head.CLASSIFICATION, _classifier("electra")),
    "entities-xlm-roberta": ("entities", Head.TAGGING, _classifier("xlm-roberta", **TAGGER)),
    "entities-bert": ("entities", Head.TAGGING, _classifier("bert", **TAGGER)),
    "answer-bert": ("answer", Head.ANSWERING, _classifier("bert", **ANSWERER)),
    "answer-distilbert": ("answer", Head.ANSWERING, _classifier("distilbert", **ANSWERER)),
    "sparse-roberta": ("sparse", Head.VOCABULARY, lambda folder, texts: splade(folder, texts, "roberta")),
    "sparse-bert": ("sparse", Head.VOCABULARY, splade),
}


def assigned(kind: str, head: Head, folder: Path, cache_dir: Path) -> Assignment:
    spec = Spec(kind=kind, model=str(folder), revision="sha256:00", quality="float32")
    return Assignment(spec, folder, "cpu", cache_dir, head)


def outputs(opened: EncoderBackend | OpenVinoBackend, texts: Sequence[str] = TEXTS) -> list[object]:
    """Return the numbers of the outputs for texts, each alone."""
    with closing(opened):
        numbers = []
        for text in opened.encode(texts):
            numbers += [_numbers(output) for _, output in opened.run(waiting([text]))]
    return numbers


def _numbers(output: Output) -> object:
    if isinstance(output, Vector):
        return output.values.tolist()
    if isinstance(output, Weights):
        return [*map(output.vocabulary.tokens.__getitem__, output.ids)], output.values.tolist()
    if isinstance(output, SpanScores):
        return output.starts.tolist(), output.ends.tolist(), output.null
    if isinstance(output, Labels):
        return [*output.scores], [*output.scores.values()], output.scale
    assert isinstance(output, TokenScores)
    return output.labels, output.scores.tolist()


def are_near(numbers: object, wanted: object) -> bool:
    """Return True for equal outputs, up to the rounding of another library."""
    if isinstance(numbers, float) and isinstance(wanted, float):
        return numbers == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    if isinstance(numbers, tuple | list) and isinstance(wanted, tuple | list):
        return len(numbers) == len(wanted) and all(map(are_near, numbers, wanted))
    return numbers == wanted


def refused(*_: object) -> None:
    raise AssertionError("a library reads the model's files")


@half_and_more(MODELS)
def test_a_converted_model_gives_what_the_models_own_code_gives_now_and_when_it_is_opened_again(
    name: str, descriptions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, head, make = MODELS[name]
    assignment = assigned(kind, head, make(tmp_path / "model", descriptions[:40]), tmp_path / "cache")
    own = EncoderBackend(assignment)
    facts, wanted = (own.limit_tokens, own.traits.normalizes, own._model.library), outputs(own)
    first = OpenVinoBackend(assignment)
    assert (first.limit_tokens, first.traits.normalizes, first._model.library) == facts
    runtime, numbers = first.runtime(), outputs(first)
    assert are_near(numbers, wanted), (numbers, wanted)
    monkeypatch.setattr(heads, "load", refused)
    again = OpenVinoBackend(assignment)
    assert (again.limit_tokens, again.traits.normalizes, again.runtime()) == (*facts[:2], runtime)
    model = weakref.ref(again._model)
    assert are_near(outputs(again), wanted)
    gc.collect()
    assert model() is None, "a closed backend gives its model back"
    assert again.encode(TEXTS)


def test_a_model_that_was_converted_before_needs_no_library(benches: Benches) -> None:
    bench = benches("openvino")
    spec = bench.spec("embed", "minilm")
    bench.engine.open(spec)
    assert loaded(spec, bench.cache_dir, bench.backend) == set()


def loaded(spec: Spec, cache_dir: Path, backend: str) -> set[str]:
    """Return the libraries that a new process has loaded after it opened a spec."""
    command = [sys.executable, "-W", "error", "-c", OPEN, spec.to_json().decode(), str(cache_dir), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {*done.stdout.split()}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("could not create a memory object: std::bad_alloc")])
def test_a_folder_of_the_cache_stays_where_memory_is_too_short_to_open_it(
    error: Exception,
    descriptions: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assignment = assigned("embed", Head.POOLING, architectures.bert(tmp_path / "model", descriptions[:40]), tmp_path)
    first = outputs(OpenVinoBackend(assignment))
    monkeypatch.setattr(heads, "load", refused)

    def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as planted:
        planted.setattr(ConvertedModel, "__init__", fails)
        with pytest.raises(type(error)):
            OpenVinoBackend(assignment)
    assert outputs(OpenVinoBackend(assignment)) == first


def test_an_encoder_that_computes_otherwise_than_before_is_unsuited(
    descriptions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignment = assigned("embed", Head.POOLING, architectures.bert(tmp_path / "model", descriptions[:40]), tmp_path)
    first = outputs(OpenVinoBackend(assignment))
    own = ConvertedModel.states

    def other_numbers(self: ConvertedModel, batch: Sequence[Encoded]) -> Any:
        states = own(self, batch)
        return {**states, "token_embeddings": np.roll(states["token_embeddings"], 1, axis=-1)}

    with monkeypatch.context() as planted:
        planted.setattr(ConvertedModel, "states", other_numbers)
        with pytest.raises(Unsuited, match="states on OpenVINO differ by"):
            OpenVinoBackend(assignment)
    assert outputs(OpenVinoBackend(assignment)) == first


def test_the_spec_that_was_opened_longest_ago_is_removed(
    descriptions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_MOST_KEPT", 2)
    model = architectures.bert(tmp_path / "model", descriptions[:40])
    places: dict[str, Path] = {}
    for second, pooling in enumerate(("mean", "cls", "mean", "last"), 1):  # the second time it is opened again
        before = opened(tmp_path)
        assignment = assigned("embed", Head.POOLING, model, tmp_path)
        OpenVinoBackend(replace(assignment, spec=replace(assignment.spec, params={"pooling": pooling}))).close()
        for place in opened(tmp_path) - before:
            places[pooling] = place
        os.utime(places[pooling], (second, second))
    assert opened(tmp_path) == {places["mean"], places["last"]}


def opened(cache_dir: Path) -> set[Path]:
    """Return the folders of specs that the cache keeps."""
    return {facts.parent for facts in cache_dir.glob("opened/*/facts.json")}


def test_a_tokenizer_of_its_file_alone_gives_the_same_tokens(descriptions: list[str], tmp_path: Path) -> None:
    for make in (architectures.bert, architectures.roberta):
        with quiet():
            own = Tokens(AutoTokenizer.from_pretrained(make(tmp_path / make.__name__, descriptions[:40])), "query: ")
        facts = facts_of(own.tokenizer, own.stated_limit)
        assert facts is not None
        again = Tokens(FastTokenizer(*facts), "query: ")
        assert again.encode(descriptions) == own.encode(descriptions)
        assert again.paired("A second text.").encode(TEXTS) == own.paired("A second text.").encode(TEXTS)
        assert (again.overhead, again.prefix_length, again.stated_limit) == (
            own.overhead,
            own.prefix_length,
            own.stated_limit,
        )


def test_a_model_whose_tokenizer_splits_special_tokens_is_unsuited(descriptions: list[str], tmp_path: Path) -> None:
    folder = architectures.bert(tmp_path / "bert", descriptions[:40])
    with quiet():
        AutoTokenizer.from_pretrained(folder, split_special_tokens=True).save_pretrained(folder)
    with pytest.raises(Unsuited, match="tokenizer"):
        OpenVinoBackend(assigned("embed", Head.POOLING, folder, tmp_path / "cache"))
