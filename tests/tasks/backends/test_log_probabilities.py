"""The log-probabilities of what is written: those of transformers' own compute_transition_scores, in float32."""

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
from tests.tasks.backends.decoder_only.test_constraint import SHORT, Masked
from tests.tasks.backends.encoder_decoder.test_ctranslate import edited
from tests.tasks.conftest import SYNOPSIS, Bench, Benches
from tests.tasks.deciding import require_equal
from tests.tasks.fakes import waiting
from tests.tasks.real_lines import half_and_more
from tests.tasks.reference import seq2seq_texts

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
    own = {"max_length": LIMIT, "bad_words_ids": None, "forced_eos_token_id": None, **SEARCHES[name]}
    n = own.pop("num_return_sequences", 1)
    folder = edited(SYNOPSIS, tmp_path / "model", **own)
    spec = bench.spec("generate", str(folder), n=n)
    backend = Seq2SeqBackend(Assignment(spec, folder, "cpu", tmp_path, Head.SEQ2SEQ_TEXT))
    texts = [" ".join(text.split()[: 6 + 2 * number]) for number, text in enumerate(descriptions[:12])]
    outputs = [output for _, output in sorted(backend.run(waiting(backend.encode(texts))))]
    written = [one for output in outputs for one in (output.outputs if isinstance(output, Several) else [output])]
    found: list[Figures] = [
        (one.likelihood.tokens, one.likelihood.total / one.likelihood.tokens, one.likelihood.least)
        for one in written
        if isinstance(one, Generated) and one.likelihood is not None
    ]

    def expected() -> list[Figures]:
        inputs = backend._generation.tokens.tokenizer(texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            own = backend._model.generate(**inputs, return_dict_in_generate=True, output_logits=True)
        beams = getattr(own, "beam_indices", None)
        scores = backend._model.compute_transition_scores(own.sequences, own.logits, beams, normalize_logits=True)
        forced, rows = "forced_bos_token_id" in SEARCHES[name], []
        for ids, row in zip(own.sequences.tolist(), scores.tolist(), strict=True):
            length = ids.index(0, 1) if 0 in ids[1:] else len(ids) - 1
            rows.append(row[forced : length - (forced and length == LIMIT - 1)])
        return figures(rows)

    assert len(found) == n * len(texts)
    assert len({tokens for tokens, _, _ in require_equal(found, expected, same=near)}) > 1


# The number of tokens of an output, and the mean and the least of their log-probabilities.
Figures = tuple[int, float | None, float | None]


def figures(rows: Sequence[Sequence[float]]) -> list[Figures]:
    return [(len(row), math.fsum(row) / len(row), min(row)) for row in rows]


def near(one: Figures, other: Figures) -> bool:
    return one[0] == other[0] and one[1:] == pytest.approx(other[1:], abs=1e-4)


@pytest.fixture
def decoder(made: dict[str, Path]) -> Path:
    return made["gpt2"]


@pytest.mark.parametrize(
    "asked",
    [{}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}, {"temperature": 0.6, "top_k": 9, "seed": 3}],
    ids=["greedy", "penalties", "samples"],
)
def test_a_decoder_has_the_log_probabilities_of_transformers_before_processors_change_them(
    benches: Benches, decoder: Path, sentences: list[str], asked: dict[str, Any]
) -> None:
    bench = benches("transformers")
    spec = bench.spec("generate", str(decoder), prompt="{text}", max_new_tokens=LIMIT, **asked)
    settings = {name: value for name, value in asked.items() if name != "seed"}
    settings |= {"do_sample": "temperature" in asked, "max_new_tokens": LIMIT}
    expected = partial(scores_of, decoder, sentences, asked.get("seed", 0), **settings)
    assert_known(bench.run(spec, sentences), expected)


@pytest.mark.parametrize("penalty", [{}, {"repetition_penalty": 1.3}], ids=["greedy", "a penalty"])
def test_a_record_has_the_log_probabilities_among_the_tokens_that_its_schema_allows(
    benches: Benches, decoder: Path, sentences: list[str], penalty: dict[str, float]
) -> None:
    bench = benches("transformers")
    spec = bench.spec("extract", str(decoder), json_schema=SHORT, prompt="{text}", max_new_tokens=60, **penalty)
    masked = Masked(from_tokenizer(AutoTokenizer.from_pretrained(decoder)))
    settings = {"do_sample": False, "max_new_tokens": 60, "logits_processor": [masked], **penalty}
    # A record is over with its last brace; transformers goes on to the token that ends an output.
    assert_known(
        bench.run(spec, sentences),
        lambda: [row[:-1] for row in scores_of(decoder, sentences, 0, **settings)],
    )


def scores_of(folder: Path, texts: Sequence[str], seed: int, **settings: Any) -> list[list[float]]:
    """Return the log-probability of each token that transformers itself writes for each text.

    It is that before processors, but for those of a ``logits_processor``, which masks.
    """
    settings |= {"output_logits": True, "output_scores": True}
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode(), quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, ids[0].tolist()))
            own = model.generate(ids, attention_mask=torch.ones_like(ids), return_dict_in_generate=True, **settings)
        pairs = zip(own.logits, own.scores, strict=True)
        allowed = tuple(one.masked_fill(other.isneginf(), -torch.inf) for one, other in pairs)
        logits = allowed if "logits_processor" in settings else own.logits
        scores = model.compute_transition_scores(own.sequences, logits, normalize_logits=True)
        found.append(scores[0].tolist())
    return found


def assert_known(outcomes: Sequence[Outcome], expected: Callable[[], Sequence[Sequence[float]]]) -> None:
    found = [(outcome.tokens_out, outcome.mean_logprob, outcome.least_logprob) for outcome in outcomes]
    require_equal(found, lambda: figures(expected()), same=near)
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
    own = {"max_length": LIMIT, "bad_words_ids": None, "forced_eos_token_id": None, **settings}
    folder = edited(SYNOPSIS, tmp_path / "model", **own)
    texts = descriptions[:8]
    transformers, ctranslate2 = (
        benches(name).run(benches(name).spec("summarize", str(folder)), texts)
        for name in ("transformers", "ctranslate2")
    )
    expected = partial(seq2seq_texts, folder, texts)
    require_equal([one.text for one in transformers], expected)
    require_equal([one.text for one in ctranslate2], expected)
    pairs = [(one, other) for one, other in zip(transformers, ctranslate2, strict=True) if one.text == other.text]
    means = [one.mean_logprob for one, _ in pairs]
    assert [other.mean_logprob for _, other in pairs] == pytest.approx(means, abs=1e-3)
    assert len({*means}) > 4
    assert {one.least_logprob for one in ctranslate2} == {None}
