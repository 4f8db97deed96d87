"""Models of many architectures compute what transformers does, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.convert import safe_folder
from docmill.tasks.errors import CannotServe
from tests.tasks import architectures
from tests.tasks.conftest import Bench, data_of, vector_of, vectors_of
from tests.tasks.deciding import require_equal
from tests.tasks.reference import mean_states, write_seq2seq


@pytest.fixture(scope="session")
def sentences(descriptions: list[str]) -> list[str]:
    """Return 24 short lines of different lengths."""
    lines = [text.replace("\n", " ") for text in descriptions]
    return [" ".join(line.split()[: 4 + number % 9]) for number, line in enumerate(lines[:24])]


GATED = partial(architectures.t5, feed_forward_proj="gated-gelu")
TO_FRENCH = {"source_lang": "en", "target_lang": "fra", "max_new_tokens": 10}
# By name: the function that saves the model, the task, its options, and the prefix of each text.
MODELS: dict[str, tuple[Callable[..., Path], str, dict[str, Any], str]] = {
    "t5": (architectures.t5, "summarize", {"max_new_tokens": 12}, "summarize: "),
    "t5 to French": (architectures.t5, "translate", TO_FRENCH, "translate English to French: "),
    "pegasus": (architectures.pegasus, "summarize", {"beams": 2}, ""),
    "bart": (architectures.bart, "summarize", {}, ""),
    "t5 1.1": (partial(GATED, tie_word_embeddings=False), "summarize", {"beams": 3, "max_new_tokens": 12}, ""),
    "t5 1.1, tied": (partial(GATED, tie_word_embeddings=True), "summarize", {"beams": 3, "max_new_tokens": 12}, ""),
}
LONG = ["t5 1.1, tied"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in MODELS])
def test_outputs_are_those_of_generate(writer: Bench, tmp_path: Path, sentences: list[str], name: str) -> None:
    make, kind, options, prefix = MODELS[name]
    folder, inputs = make(tmp_path / "model", sentences), [prefix + text for text in sentences]
    in_transformers = {"beams": "num_beams", "max_new_tokens": "max_new_tokens"}
    settings = {setting: options[option] for option, setting in in_transformers.items() if option in options}
    actual = writer.write(writer.spec(kind, folder, **options), sentences)
    require_equal(actual, partial(write_seq2seq, folder, inputs, **settings))


def test_a_prefix_of_the_command_replaces_the_models_own(writer: Bench, tmp_path: Path, sentences: list[str]) -> None:
    folder = architectures.t5(tmp_path / "t5-prefix", sentences)
    languages = {"source_lang": "fr", "target_lang": "en"}
    for kind, options in (("summarize", {}), ("translate", languages), ("translate", {})):
        for prefix in ("short: ", ""):
            spec = writer.spec(kind, folder, max_new_tokens=12, prefix=prefix, **options)
            inputs = [prefix + text for text in sentences[:8]]
            expected = partial(write_seq2seq, folder, inputs, max_new_tokens=12)
            require_equal(writer.write(spec, sentences[:8]), expected)


def test_an_mt5_without_settings_reads_the_text_alone_and_old_specs_add_a_prefix(
    writer: Bench, tmp_path: Path, sentences: list[str]
) -> None:
    folder = architectures.t5(tmp_path / "mt5", sentences, kind="MT5")
    texts = sentences[:8]
    spec = writer.spec("summarize", folder, max_new_tokens=12)
    require_equal(writer.write(spec, texts), partial(write_seq2seq, folder, texts, max_new_tokens=12))
    old_spec = replace(spec, params={name: value for name, value in spec.params.items() if name != "prefix"})
    expected = partial(write_seq2seq, folder, [f"summarize: {text}" for text in texts], max_new_tokens=12)
    require_equal(writer.write(old_spec, texts), expected)


def test_led_summarizes_a_batch_as_one_text_at_a_time(bench: Bench, tmp_path: Path, sentences: list[str]) -> None:
    folder = architectures.led(tmp_path / "led", sentences)
    texts = [" ".join(sentences[: 1 + number]) for number in range(6)]
    require_equal(bench.write(bench.spec("summarize", folder), texts), partial(write_seq2seq, folder, texts))


def test_marian_with_target_tokens_puts_one_before_each_window(
    each_writer: Bench, tmp_path: Path, sentences: list[str], french: list[str]
) -> None:
    folder = architectures.marian(tmp_path / "opus-mt-en-roa-small", french, (">>fra<<", ">>spa<<"))
    spec = each_writer.spec("translate", folder, target_lang="fr")
    inputs = [f">>fra<< {text}" for text in sentences]
    require_equal(each_writer.write(spec, sentences), partial(write_seq2seq, folder, inputs))
    for language, message in ((None, "give --to, one of fra, spa"), ("de", "does not know the language de")):
        params = {} if language is None else {"target_lang": language}
        with pytest.raises(CannotServe, match=message):  # where the job is made, a hub's model is not at hand
            each_writer.engine.open(replace(spec, params=params))


@pytest.mark.parametrize(
    ("kind", "source", "target", "token"),
    [
        ("nllb", "eng_Latn", "fra_Latn", "fra_Latn"),
        pytest.param("mbart", "en_XX", "fr_XX", "fr_XX", marks=pytest.mark.long),
        ("m2m100", "en", "fr", "__fr__"),
    ],
)
def test_multilingual_models_are_told_both_languages(
    writer: Bench, tmp_path: Path, sentences: list[str], kind: str, source: str, target: str, token: str
) -> None:
    folder = architectures.multilingual(tmp_path / kind, sentences, [source, target, "deu_Latn"], kind)
    spec = writer.spec("translate", folder, source_lang="en", target_lang="fr")
    with quiet():
        forced = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(token)
    expected = partial(write_seq2seq, folder, sentences, src_lang=source, forced_bos_token_id=forced)
    require_equal(writer.write(spec, sentences), expected)


def test_robertas_unused_positions_are_not_counted(bench: Bench, tmp_path: Path, sentences: list[str]) -> None:
    folder = architectures.roberta(tmp_path / "roberta", sentences)
    text = " ".join(sentences)
    (outcome,) = bench.run(bench.spec("embed", folder, windows="all"), [text])
    assert data_of(outcome)["dim"] == 32
    spans = data_of(outcome)["windows"]
    assert "".join(text[start:end] for start, end in spans) == text
    rows = vector_of(outcome).reshape(len(spans), 32)
    assert np.allclose(rows, mean_states(folder, [text[start:end] for start, end in spans]), atol=1e-5)


def test_a_model_that_is_no_transformer_tokenises_on_its_own(
    bench: Bench, tmp_path: Path, sentences: list[str]
) -> None:
    with quiet():
        tokenizer = Tokenizer.from_file(
            str(architectures.bert(tmp_path / "bert-static", sentences) / "tokenizer.json")
        )
        model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")
        model.save(str(tmp_path / "static"), create_model_card=False)
    expected = model.encode(sentences, show_progress_bar=False)
    actual = vectors_of(bench.run(bench.spec("embed", tmp_path / "static"), sentences))
    assert np.allclose(actual, expected, atol=1e-5)


def test_a_model_with_a_router_reads_a_long_text_in_windows(
    bench: Bench, tmp_path: Path, sentences: list[str]
) -> None:
    with quiet():
        first = Transformer(str(architectures.bert(tmp_path / "bert-routed", sentences)), max_seq_length=32)
        routes = Router.for_query_document([first, Pooling(32)], [first, Pooling(32)], default_route="document")
        model = SentenceTransformer(modules=[routes], device="cpu")
        model.save(str(tmp_path / "router"), create_model_card=False)
    text = " ".join(sentences)
    (outcome,) = bench.run(bench.spec("embed", tmp_path / "router", windows="all"), [text])
    windows = [text[start:end] for start, end in data_of(outcome)["windows"]]
    assert len(windows) > 1
    assert max(len(ids) for ids in first.tokenizer(windows)["input_ids"]) <= 32
    rows = vector_of(outcome).reshape(len(windows), 32)
    assert np.allclose(rows, model.encode(windows, show_progress_bar=False), atol=1e-5)


def test_a_pickle_that_holds_more_than_tensors_is_refused(french: list[str], tmp_path: Path) -> None:
    folder = architectures.marian(tmp_path / "unsafe", french)
    torch.save({"weights": print}, folder / "pytorch_model.bin")
    with pytest.raises(CannotServe, match="runs no code from model files"):
        safe_folder(folder, "sha256:01", tmp_path)
    assert [path for path in (tmp_path / "converted").iterdir() if path.is_dir()] == []
