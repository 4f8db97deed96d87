"""Outputs with decoding options are those of transformers' generate, one text at a time, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from docmill.tasks.errors import BadOption, CannotServe
from tests.tasks import decoders
from tests.tasks.architectures import copy_with_settings
from tests.tasks.conftest import SYNOPSIS, Bench, data_of
from tests.tasks.deciding import require_equal
from tests.tasks.real_lines import half_and_more
from tests.tasks.reference import generate_texts, write_seq2seq

NEW_TOKENS = 16
# Options that have the same names in transformers.
GREEDY: dict[str, dict[str, Any]] = {
    "min_new_tokens": {"min_new_tokens": 12},
    "repetition_penalty": {"repetition_penalty": 1.8},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "all together": {"min_new_tokens": 9, "repetition_penalty": 1.3, "no_repeat_ngram_size": 1},
}
SAMPLED: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.8},
    "top_p": {"top_p": 0.6},
    "top_k": {"top_k": 4},
    "top_k of all": {"top_k": 0, "temperature": 1.3},
    "min_p": {"min_p": 0.3},
    "all together": {
        "temperature": 1.4, "top_k": 30, "top_p": 0.95, "min_p": 0.02, "min_new_tokens": 7, "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
    },
}  # fmt: skip
BEAMS: dict[str, Any] = {
    "length_penalty": 0.4, "early_stopping": True, "min_new_tokens": 6, "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def sentences(descriptions: list[str]) -> list[str]:
    lines = [text.replace("\n", " ") for text in descriptions]
    return [" ".join(line.split()[: 5 + 5 * number % 27]) for number, line in enumerate(lines[:8])]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    """Return the folder of a base model with many end tokens, so that outputs have different lengths."""
    torch.manual_seed(11)
    return decoders.gpt2(tmp_path_factory.mktemp("gpt2") / "m", descriptions[:40], eos_token_id=[0, *range(8, 60)])


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an encoder-decoder that searches without beams by default."""
    settings = {"num_beams": 1, "max_length": NEW_TOKENS + 1, "bad_words_ids": None, "forced_eos_token_id": None}
    return copy_with_settings(SYNOPSIS, tmp_path_factory.mktemp("marian") / "m", **settings)


def generate(bench: Bench, folder: Path, texts: list[str], **options: Any) -> list[str | None]:
    spec = bench.spec("generate", folder, prompt="{text}", max_new_tokens=NEW_TOKENS, **options)
    return bench.write(spec, texts)


def summarize(bench: Bench, folder: Path, texts: list[str], **options: Any) -> list[str | None]:
    return bench.write(bench.spec("summarize", folder, **options), texts)


def draw_samples(write: Callable[..., list[str]], n: int) -> list[list[str]]:
    """Return ``n`` samples of each text from a function that writes a numbered sample of all texts."""
    by_number = [write(number=number) for number in range(n)]
    return [[*samples] for samples in zip(*by_number, strict=True)]


@half_and_more(GREEDY)
def test_greedy_outputs_of_a_decoder_only_model_are_those_of_generate(
    bench: Bench, gpt2: Path, sentences: list[str], name: str
) -> None:
    reference = partial(generate_texts, gpt2, sentences, max_new_tokens=NEW_TOKENS, **GREEDY[name])
    expected = require_equal(generate(bench, gpt2, sentences, **GREEDY[name]), reference)
    assert expected != generate_texts(gpt2, sentences, max_new_tokens=NEW_TOKENS)


@half_and_more(SAMPLED)
def test_samples_of_a_decoder_only_model_are_those_of_generate_with_the_seed_of_the_text(
    bench: Bench, gpt2: Path, sentences: list[str], name: str
) -> None:
    settings = {"do_sample": True, "max_new_tokens": NEW_TOKENS, "top_k": 0, **SAMPLED[name]}
    reference = partial(generate_texts, gpt2, sentences, seed=3, **settings)
    expected = require_equal(generate(bench, gpt2, sentences, seed=3, **SAMPLED[name]), reference)
    assert expected != generate_texts(gpt2, sentences, seed=4, **settings)


def test_searches_by_beams_are_those_of_generate(bench: Bench, marian: Path, sentences: list[str]) -> None:
    actual = summarize(bench, marian, sentences, beams=4, **BEAMS)
    expected = require_equal(actual, partial(write_seq2seq, marian, sentences, num_beams=4, **BEAMS))
    assert expected != write_seq2seq(marian, sentences, num_beams=4)


def test_samples_of_an_encoder_decoder_are_those_of_generate_with_the_seed_of_the_text(
    bench: Bench, marian: Path, sentences: list[str]
) -> None:
    options = SAMPLED["all together"]
    settings = {"do_sample": True, "top_k": 0, **options}
    actual = summarize(bench, marian, sentences, seed=3, **options)
    require_equal(actual, partial(write_seq2seq, marian, sentences, seed=3, **settings))
    assert actual != write_seq2seq(marian, sentences, seed=4, **settings)


def test_an_encoder_decoder_whose_files_ask_for_samples_draws_them_from_all_tokens(
    bench: Bench, marian: Path, sentences: list[str], tmp_path: Path
) -> None:
    folder = copy_with_settings(marian, tmp_path / "sampling", do_sample=True, temperature=2.0)
    expected = partial(write_seq2seq, folder, sentences, seed=3, do_sample=True, temperature=2.0, top_k=0)
    require_equal(summarize(bench, folder, sentences, seed=3), expected)


def test_samples_of_beams_are_those_of_generate(bench: Bench, marian: Path, sentences: list[str]) -> None:
    actual = summarize(bench, marian, sentences[:5], beams=2, temperature=1.2, seed=3)
    settings: dict[str, Any] = {"num_beams": 2, "do_sample": True, "temperature": 1.2, "top_k": 0}
    require_equal(actual, partial(write_seq2seq, marian, sentences[:5], seed=3, **settings))


@pytest.mark.parametrize("beams", [1, 3])
def test_an_encoder_decoder_ends_its_output_before_a_text(
    bench: Bench, marian: Path, sentences: list[str], beams: int
) -> None:
    spec = bench.spec("summarize", marian, beams=beams, stop=("e",))
    outcomes = bench.run(spec, sentences)
    actual = [outcome.text for outcome in outcomes]
    require_equal(actual, partial(write_seq2seq, marian, sentences, stop="e", num_beams=beams))
    stopped = [outcome for outcome in outcomes if outcome.tokens_out < NEW_TOKENS]
    assert len(stopped) > len(outcomes) / 4
    (alone,) = bench.run(spec, [sentences[outcomes.index(stopped[0])]])
    assert alone.tokens_out == stopped[0].tokens_out


FILES: dict[str, Mapping[str, Any]] = {
    "a least length of prompt and output, and penalties": {
        "min_length": 20, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2,
    },
    "no such words": {"bad_words_ids": [[20], [21, 22], [0]]},
    "no such tokens": {"suppress_tokens": [25, 30, 31]},
    "samples": {"do_sample": True, "top_p": 0.7, "top_k": 40, "min_p": 0.01},
}  # fmt: skip


@half_and_more(FILES)
def test_other_settings_of_a_generation_config_are_followed_by_decoder_only_models(
    bench: Bench, tmp_path: Path, descriptions: list[str], sentences: list[str], name: str
) -> None:
    torch.manual_seed(11)
    folder = decoders.gpt2(tmp_path / "own", descriptions[:40], eos_token_id=[0, *range(8, 60)], **FILES[name])
    settings = {"do_sample": FILES[name].get("do_sample", False), "max_new_tokens": NEW_TOKENS}
    reference = partial(generate_texts, folder, sentences, **settings)
    require_equal(generate(bench, folder, sentences), reference)


def test_each_of_several_samples_is_that_of_generate_and_the_first_is_that_of_a_single_sample(
    bench: Bench, gpt2: Path, sentences: list[str]
) -> None:
    options: dict[str, Any] = {"temperature": 1.1, "top_p": 0.9}
    spec = bench.spec("generate", gpt2, prompt="{text}", max_new_tokens=NEW_TOKENS, n=3, **options)
    write_one = partial(
        generate_texts, gpt2, sentences, do_sample=True, max_new_tokens=NEW_TOKENS, top_k=0, **options
    )
    outcomes = bench.run(spec, sentences)
    actual = [data_of(outcome)["texts"] for outcome in outcomes]
    several = require_equal(actual, partial(draw_samples, write_one, 3))
    assert all(data_of(outcome)["texts"][0] == outcome.text for outcome in outcomes)
    require_equal(generate(bench, gpt2, sentences, **options), partial(write_one, number=0))
    assert [texts[0] for texts in several] != [texts[1] for texts in several]


def test_several_outputs_of_an_encoder_decoder_are_the_best_of_its_beams_or_samples(
    bench: Bench, marian: Path, sentences: list[str]
) -> None:
    texts = sentences[:5]

    def several(**options: Any) -> list[list[str]]:
        outcomes = bench.run(bench.spec("generate", marian, max_new_tokens=NEW_TOKENS, **options), texts)
        return [data_of(outcome)["texts"] for outcome in outcomes]

    best: dict[str, Any] = {"num_return_sequences": 3, "num_beams": 4, "max_new_tokens": NEW_TOKENS}
    require_equal(several(beams=4, n=3), lambda: [write_seq2seq(marian, [text], **best) for text in texts])
    sampled: dict[str, Any] = {"seed": 5, "do_sample": True, "temperature": 1.2, "top_k": 0}
    write_one = partial(write_seq2seq, marian, texts, **sampled)
    require_equal(several(temperature=1.2, n=2, seed=5), partial(draw_samples, write_one, 2))


def test_a_long_documents_outputs_are_joined_window_by_window(
    bench: Bench, gpt2: Path, descriptions: list[str]
) -> None:
    spec = bench.spec("generate", gpt2, prompt="{text}", max_new_tokens=4, n=2, temperature=1.0, window_tokens=60)
    (outcome,) = bench.run(spec, [descriptions[0] + "\n\n" + descriptions[1]])
    assert "windowed" in outcome.flags
    first, _ = data_of(outcome)["texts"]
    assert outcome.text == first


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 2}, CannotServe, "--n 2 asks for outputs that would all be the same: sample them"),
        ({"n": 5, "beams": 4}, CannotServe, "--n 5 is more than the 4 beams of the search: give --beams 5 or more"),
        ({"length_penalty": 2.0}, CannotServe, "--length-penalty is for a search by beams, and .* has no beams"),
        ({"early_stopping": True}, CannotServe, "--early-stopping is for a search by beams, and .* has no beams"),
        ({"min_new_tokens": 17}, CannotServe, r"17 is more than the 16 tokens that .* writes at most here"),
        ({"beams": 1, "length_penalty": 2.0}, BadOption, "--length-penalty is for a search by beams: give --beams 2"),
        ({"beams": 1, "early_stopping": True}, BadOption, "--early-stopping is for a search by beams"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, BadOption, "--min-new-tokens 9 is more than --max-new-tokens 8"),
    ],
)
def test_options_without_effect_or_that_exclude_each_other_are_refused(
    bench: Bench, marian: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        bench.engine.open(bench.spec("generate", marian, **options))


def test_equal_outputs_of_a_decoder_only_model_are_refused(bench: Bench, gpt2: Path) -> None:
    with pytest.raises(CannotServe, match="--n 2 asks for outputs that would all be the same"):
        bench.engine.open(bench.spec("generate", gpt2, prompt="{text}", n=2))
