"""A converted model computes what the model's own code does, and opens again without transformers or torch."""

from __future__ import annotations

import gc
import os
import shutil
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
from tests.tasks.backends.encoder.test_pooling import TEXTS, save_with_modules
from tests.tasks.backends.encoder.test_weighting import splade
from tests.tasks.conftest import Benches
from tests.tasks.fakes import raising, waiting
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
    """Save an embedding model that joins four poolings, reduces them to 16 dimensions and normalizes."""
    inner, pooling = architectures.bert(folder / "words", texts), Pooling(32, ("cls", "mean", "max", "lasttoken"))
    return save_with_modules(folder / "model", inner, pooling, Dense(128, 16), Normalize())


def _residual(folder: Path, texts: list[str]) -> Path:
    """Save an embedding model with a residual layer, which only sentence-transformers opens."""
    inner = architectures.bert(folder / "words", texts)
    return save_with_modules(folder / "model", inner, Pooling(32, "mean"), Dense(32, 32, use_residual=True))


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


def compute(backend: EncoderBackend | OpenVinoBackend) -> list[object]:
    """Return the numbers of the outputs for TEXTS, computed one at a time, and close the backend."""
    with closing(backend):
        windows = backend.encode(TEXTS)
        return [_numbers(output) for window in windows for _, output in backend.run(waiting([window]))]


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


def are_near(numbers: object, expected: object) -> bool:
    """Return True if outputs differ by no more than the rounding of another library."""
    if isinstance(numbers, float) and isinstance(expected, float):
        return numbers == pytest.approx(expected, rel=1e-4, abs=1e-5)
    if isinstance(numbers, tuple | list) and isinstance(expected, tuple | list):
        return len(numbers) == len(expected) and all(map(are_near, numbers, expected))
    return numbers == expected


refuse = raising(AssertionError("a library reads the model's files"))


@half_and_more(MODELS)
def test_a_converted_model_computes_what_the_models_own_code_does_also_when_opened_again(
    name: str, descriptions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, head, make = MODELS[name]
    assignment = assigned(kind, head, make(tmp_path / "model", descriptions[:40]), tmp_path / "cache")
    own_code = EncoderBackend(assignment)
    facts, expected = (own_code.limit_tokens, own_code.traits.normalizes, own_code._model.library), compute(own_code)
    first = OpenVinoBackend(assignment)
    assert (first.limit_tokens, first.traits.normalizes, first._model.library) == facts
    runtime, numbers = first.runtime(), compute(first)
    assert are_near(numbers, expected), (numbers, expected)
    monkeypatch.setattr(heads, "load", refuse)
    reopened = OpenVinoBackend(assignment)
    assert (reopened.limit_tokens, reopened.traits.normalizes, reopened.runtime()) == (*facts[:2], runtime)
    model = weakref.ref(reopened._model)
    assert are_near(compute(reopened), expected)
    gc.collect()
    assert model() is None, "a closed backend gives its model back"
    assert reopened.encode(TEXTS)


def test_a_model_that_was_converted_before_needs_no_library(benches: Benches) -> None:
    bench = benches("openvino")
    spec = bench.spec("embed", "minilm")
    bench.engine.open(spec)
    assert libraries_loaded(spec, bench.cache_dir, bench.backend) == set()


def libraries_loaded(spec: Spec, cache_dir: Path, backend: str) -> set[str]:
    """Return the libraries that a new process loads when it opens a spec."""
    command = [sys.executable, "-W", "error", "-c", OPEN, spec.to_json().decode(), str(cache_dir), backend]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return {*process.stdout.split()}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("could not create a memory object: std::bad_alloc")])
def test_a_folder_of_the_cache_stays_where_memory_is_too_short_to_open_it(
    error: Exception, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignment = assigned("embed", Head.POOLING, bert, tmp_path)
    first = compute(OpenVinoBackend(assignment))
    monkeypatch.setattr(heads, "load", refuse)
    with monkeypatch.context() as planted:
        planted.setattr(ConvertedModel, "__init__", raising(error))
        with pytest.raises(type(error)):
            OpenVinoBackend(assignment)
    assert compute(OpenVinoBackend(assignment)) == first


def test_a_conversion_that_computes_other_numbers_than_before_is_unsuited(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignment = assigned("embed", Head.POOLING, bert, tmp_path)
    first = compute(OpenVinoBackend(assignment))
    states_of = ConvertedModel.states

    def other_numbers(self: ConvertedModel, batch: Sequence[Encoded]) -> Any:
        states = states_of(self, batch)
        return {**states, "token_embeddings": np.roll(states["token_embeddings"], 1, axis=-1)}

    with monkeypatch.context() as planted:
        planted.setattr(ConvertedModel, "states", other_numbers)
        with pytest.raises(Unsuited, match="states on OpenVINO differ by"):
            OpenVinoBackend(assignment)
    assert compute(OpenVinoBackend(assignment)) == first


def test_the_spec_that_was_opened_longest_ago_is_removed(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_MOST_KEPT", 2)
    places: dict[str, Path] = {}
    for second, pooling in enumerate(("mean", "cls", "mean", "last"), 1):  # the first is opened twice
        folders_before = kept_folders(tmp_path)
        assignment = assigned("embed", Head.POOLING, bert, tmp_path)
        OpenVinoBackend(replace(assignment, spec=replace(assignment.spec, params={"pooling": pooling}))).close()
        for place in kept_folders(tmp_path) - folders_before:
            places[pooling] = place
        os.utime(places[pooling], (second, second))
    assert kept_folders(tmp_path) == {places["mean"], places["last"]}


def kept_folders(cache_dir: Path) -> set[Path]:
    """Return the folders of the specs in the cache."""
    return {facts.parent for facts in cache_dir.glob("opened/*/facts.json")}


def test_a_tokenizer_of_its_file_alone_gives_the_same_tokens(descriptions: list[str], tmp_path: Path) -> None:
    for make in (architectures.bert, architectures.roberta):
        folder = make(tmp_path / make.__name__, descriptions[:40])
        with quiet():
            tokens = Tokens(AutoTokenizer.from_pretrained(folder), "query: ")
        facts = facts_of(tokens.tokenizer, tokens.stated_limit)
        assert facts is not None
        from_file = Tokens(FastTokenizer(*facts), "query: ")
        assert from_file.encode(descriptions) == tokens.encode(descriptions)
        assert from_file.paired("A second text.").encode(TEXTS) == tokens.paired("A second text.").encode(TEXTS)
        for fact in ("overhead", "prefix_length", "stated_limit"):
            assert getattr(from_file, fact) == getattr(tokens, fact)


def test_a_model_whose_tokenizer_splits_special_tokens_is_unsuited(bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "bert"))
    with quiet():
        AutoTokenizer.from_pretrained(folder, split_special_tokens=True).save_pretrained(folder)
    with pytest.raises(Unsuited, match="tokenizer"):
        OpenVinoBackend(assigned("embed", Head.POOLING, folder, tmp_path / "cache"))
