"""A head of an encoder-only model is one module: the fast encoders serve it as they serve pooling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForTokenClassification, AutoTokenizer

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder import heads
from docmill.tasks.backends.encoder.comparison import Comparison
from docmill.tasks.backends.encoder.converted.openvino_backend import OpenVinoBackend
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder.packed import PackedEncoder
from docmill.tasks.batching import Item, Pool
from docmill.tasks.outputs import Head, Vector
from tests.tasks import architectures

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
LABELS = 5


@pytest.fixture(scope="module", params=["bert", "mpnet"])
def classifier(request: pytest.FixtureRequest, descriptions: list[str], tmp_path_factory: Any) -> Path:
    """A token classifier of BERT's design, which is computed without padding, and one of another."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = AutoTokenizer.from_pretrained(architectures.bert(folder / "words", descriptions[:40]))
    of = {"bert": transformers.BertConfig, "mpnet": transformers.MPNetConfig}[request.param]
    config = of(vocab_size=tokenizer.vocab_size, num_labels=LABELS, max_position_embeddings=130, **SIZES)
    torch.manual_seed(7)
    with quiet():
        model = AutoModelForTokenClassification.from_config(config)
    return architectures.save(folder / "model", model, tokenizer)


@pytest.fixture(autouse=True)
def with_token_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "LOADERS", {Head.POOLING: "tests.tasks.backends.token_labels:load"})


def expected(folder: Path, texts: list[str]) -> list[Any]:
    """Return the outputs of transformers' own model for each text alone, in float32."""
    with quiet(), torch.inference_mode():
        model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return [model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in texts]


@pytest.mark.parametrize("backend", [EncoderBackend, OpenVinoBackend])
def test_a_token_classifier_on_a_fast_encoder_gives_the_logits_of_transformers(
    backend: type[EncoderBackend], classifier: Path, descriptions: list[str], tmp_path: Path
) -> None:
    texts = [line for text in descriptions for line in text.split("\n") if 0 < len(line.strip()) < 200][:40]
    spec = Spec(kind="embed", model=str(classifier), revision="sha256:00", quality="float32")
    opened = backend(Assignment(spec, classifier, "cpu", tmp_path, Head.POOLING))
    waiting: Pool[Any] = Pool()
    waiting.add(Item(number, encoded, None) for number, encoded in enumerate(opened.encode(texts)))
    found = dict(opened.run(waiting))
    assert opened.runtime()["backend"] == ("openvino" if backend is OpenVinoBackend else "transformers")
    if backend is EncoderBackend:
        assert isinstance(opened._encoder, PackedEncoder) is (classifier.parent.name.startswith("bert"))
    opened.close()
    for number, logits in enumerate(expected(classifier, texts)):
        output = found[number]
        assert isinstance(output, Vector)
        assert np.allclose(output.values.reshape(-1, LABELS), logits, atol=2e-5)


def test_an_encoder_that_differs_is_left_to_its_own_code_whatever_the_head(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Comparison, "distance", lambda *_: 1.0)
    spec = Spec(kind="embed", model=str(classifier), revision="sha256:00", quality="float32")
    opened = EncoderBackend(Assignment(spec, classifier, "cpu", tmp_path, Head.POOLING))
    assert opened._encoder is None
    opened.close()
