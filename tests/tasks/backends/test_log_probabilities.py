"""Log-probabilities of outputs are those of transformers' compute_transition_scores, in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from llguidance.hf import from_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from docmill.storage.core.specs import Outcome
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.decoding import seed_of
from docmill.tasks.backends.encoder_decoder.seq2seq import Seq2SeqBackend
from docmill.tasks.outputs import Generated, Head, Several
from tests.tasks.architectures import copy_with_settings
from tests.tasks.backends.decoder_only.test_constraint import SHORT, Masked
from tests.tasks.conftest import SYNOPSIS, Bench, Benches
from tests.tasks.deciding import require_equal
from tests.tasks.fakes import waiting
from tests.tasks.real_lines import half_and_more
from tests.tasks.reference import write_seq2seq

MASKS = {"min_length": 6, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2, "suppress_tokens": [7]}
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    "greedy, masked": {"num_beams": 1, **MASKS},
    "greedy, a forced beginning and end": {"num_beams": 1, "forced_bos_token_id": 30, "forced_eos_token_id": 0},
    "beams": {"num_beams": 4, "early_stopping": False},
    "beams, masked": {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0, **MASKS},
    "beams, a forced beginning and end": {"num_beams": 2, "forced_bos_token_id": 30, "forced_eos_token_id": 0},
    "several of the beams": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": "never"},
}
LIMIT = 14


@half_and_more(SEARCHES)
def test_a_search_of_an_encoder_decoder_has_the_log_probabilities_of_transformers(
    bench: Bench, tmp_path: Path, descriptions: list[str], name: str
) -> None:
    settings = {"max_length": LIMIT, "bad_words_ids": None, "forced_eos_token_id": None, **SEARCHES[name]}
    n = settings.pop("num_return_sequences", 1)
    folder = copy_with_settings(SYNOPSIS, tmp_path / "model", **settings)
    spec = bench.spec("generate", folder, n=n)
    backend = Seq2SeqBackend(Assignment(spec, folder, "cpu", tmp_path, Head.SEQ2SEQ_TEXT))
    texts = [" ".join(text.split()[: 6 + 2 * number]) for number, text in enumerate(descriptions[:12])]
    actual: list[Figures] = []
    for _, output in sorted(backend.run(waiting(backend.encode(texts)))):
        for written in output.outputs if isinstance(output, Several) else [output]:
            assert isinstance(written, Generated)
            known = written.likelihood
            assert known is not None
            actual.append((known.tokens, known.total / known.tokens, known.least))

    def expected() -> list[Figures]:
        inputs = backend._generation.tokens.tokenizer(texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            result = backend._model.generate(**inputs, return_dict_in_generate=True, output_logits=True)
        beams = getattr(result, "beam_indices", None)
        scores = backend._model.compute_transition_scores(
            result.sequences, result.logits, beams, normalize_logits=True
        )
        forced, rows = "forced_bos_token_id" in SEARCHES[name], []
        for ids, row in zip(result.sequences.tolist(), scores.tolist(), strict=True):
            length = ids.index(0, 1) if 0 in ids[1:] else len(ids) - 1
            rows.append(row[forced : length - (forced and length == LIMIT - 1)])
        return figures_of(rows)

    assert len(actual) == n * len(texts)
    assert len({tokens for tokens, _, _ in require_equal(actual, expected, same=are_near)}) > 1


# The number of tokens of an output, the mean of their log-probabilities, and the least.
Figures = tuple[int, float | None, float | None]


def figures_of(rows: Sequence[Sequence[float]]) -> list[Figures]:
    return [(len(row), math.fsum(row) / len(row), min(row)) for row in rows]


def are_near(first: Figures, second: Figures) -> bool:
    return first[0] == second[0] and first[1:] == pytest.approx(second[1:], abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [{}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}, {"temperature": 0.6, "top_k": 9, "seed": 3}],
    ids=["greedy", "penalties", "samples"],
)
def test_a_decoder_has_the_log_probabilities_of_transformers_before_processors_change_them(
    benches: Benches, gpt2: Path, sentences: list[str], options: dict[str, Any]
) -> None:
    bench = benches("transformers")
    spec = bench.spec("generate", gpt2, prompt="{text}", max_new_tokens=LIMIT, **options)
    settings = {name: value for name, value in options.items() if name != "seed"}
    settings |= {"do_sample": "temperature" in options, "max_new_tokens": LIMIT}
    expected = partial(scores_of, gpt2, sentences, options.get("seed", 0), **settings)
    assert_figures(bench.run(spec, sentences), expected)


@pytest.mark.parametrize("penalty", [{}, {"repetition_penalty": 1.3}], ids=["greedy", "a penalty"])
def test_a_record_has_the_log_probabilities_among_the_tokens_that_its_schema_allows(
    benches: Benches, gpt2: Path, sentences: list[str], penalty: dict[str, float]
) -> None:
    bench = benches("transformers")
    spec = bench.spec("extract", gpt2, json_schema=SHORT, prompt="{text}", max_new_tokens=60, **penalty)
    masked = Masked(from_tokenizer(AutoTokenizer.from_pretrained(gpt2)))
    settings = {"do_sample": False, "max_new_tokens": 60, "logits_processor": [masked], **penalty}
    # A record ends with its last brace. transformers also writes the token that ends an output.
    assert_figures(
        bench.run(spec, sentences), lambda: [row[:-1] for row in scores_of(gpt2, sentences, 0, **settings)]
    )


def scores_of(folder: Path, texts: Sequence[str], seed: int, **settings: Any) -> list[list[float]]:
    """Return the log-probability of each token that transformers writes for each text.

    Processors do not change it, except a ``logits_processor``, which masks tokens.
    """
    settings |= {"output_logits": True, "output_scores": True, "return_dict_in_generate": True}
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    by_text = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode(), quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, ids[0].tolist()))
            result = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        pairs = zip(result.logits, result.scores, strict=True)
        allowed = tuple(row.masked_fill(score.isneginf(), -torch.inf) for row, score in pairs)
        logits = allowed if "logits_processor" in settings else result.logits
        scores = model.compute_transition_scores(result.sequences, logits, normalize_logits=True)
        by_text.append(scores[0].tolist())
    return by_text


def assert_figures(outcomes: Sequence[Outcome], expected: Callable[[], Sequence[Sequence[float]]]) -> None:
    actual = [(outcome.tokens_out, outcome.mean_logprob, outcome.least_logprob) for outcome in outcomes]
    require_equal(actual, lambda: figures_of(expected()), same=are_near)
    means = [outcome.mean_logprob for outcome in outcomes if outcome.mean_logprob is not None]
    assert [outcome.confidence for outcome in outcomes] == pytest.approx([*map(math.exp, means)], abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1},
        {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0, "forced_bos_token_id": 30},
        {"num_beams": 4, "early_stopping": False, "length_penalty": 0.0},
    ],
    ids=["greedy", "beams, a forced beginning", "beams without a length penalty"],
)
def test_ctranslate2_has_the_mean_that_transformers_has_and_no_least(
    benches: Benches, tmp_path: Path, descriptions: list[str], settings: dict[str, Any]
) -> None:
    all_settings = {"max_length": LIMIT, "bad_words_ids": None, "forced_eos_token_id": None, **settings}
    folder = copy_with_settings(SYNOPSIS, tmp_path / "model", **all_settings)
    texts = descriptions[:8]
    transformers, ctranslate2 = (
        benches(name).run(benches(name).spec("summarize", str(folder)), texts)
        for name in ("transformers", "ctranslate2")
    )
    expected = partial(write_seq2seq, folder, texts)
    require_equal([outcome.text for outcome in transformers], expected)
    require_equal([outcome.text for outcome in ctranslate2], expected)
    pairs = [pair for pair in zip(transformers, ctranslate2, strict=True) if pair[0].text == pair[1].text]
    means = [reference.mean_logprob for reference, _ in pairs]
    assert [outcome.mean_logprob for _, outcome in pairs] == pytest.approx(means, abs=1e-3)
    assert len({*means}) > 4
    assert {outcome.least_logprob for outcome in ctranslate2} == {None}
