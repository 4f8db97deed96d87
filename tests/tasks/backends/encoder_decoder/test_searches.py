"""Searches by beams, by the backend that docmill chooses, write what transformers' generate does in float32."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder_decoder.ctranslate import inexact, options
from docmill.tasks.backends.encoder_decoder.generation import Generation
from docmill.tasks.backends.loading import Opening, generation_settings
from docmill.tasks.errors import CannotServe
from docmill.tasks.outputs import Head
from tests.tasks import architectures
from tests.tasks.architectures import copy_with_settings
from tests.tasks.conftest import SYNOPSIS, Bench
from tests.tasks.deciding import require_equal
from tests.tasks.real_lines import half_and_more, some_and_more
from tests.tasks.reference import write_seq2seq

UNSEEN = Path(__file__).parents[2] / "texts" / "english.jsonl"
NO_FORCED_END = {"bad_words_ids": None, "forced_eos_token_id": None}
EARLY = {"num_beams": 4, "early_stopping": True, **NO_FORCED_END}
OPEN = {"num_beams": 4, "early_stopping": False, "length_penalty": 0.0, **NO_FORCED_END}

# By name: settings of a model, and True if CTranslate2 searches by them as transformers does.
SEARCHES: dict[str, tuple[dict[str, Any], bool]] = {
    "greedy": ({"num_beams": 1}, True),
    "greedy, at least 20 tokens, no pair twice": (
        {"num_beams": 1, "min_length": 20, "no_repeat_ngram_size": 2}, True,
    ),
    "greedy, cut at 8 tokens": ({"num_beams": 1, "max_length": 8}, True),
    "greedy, without some words": (
        {"num_beams": 1, "bad_words_ids": [[7999], [20], [21, 22]], "suppress_tokens": [7, 30]}, True,
    ),
    "early": (EARLY, True),
    "early, cut at 8 tokens": ({**EARLY, "max_length": 8}, True),
    "early, 2 beams": ({**EARLY, "num_beams": 2}, True),
    "early, long outputs preferred": ({**EARLY, "length_penalty": 2.0}, True),
    "early, short outputs preferred": ({**EARLY, "length_penalty": 0.4}, True),
    "early, a forced beginning": ({**EARLY, "forced_bos_token_id": 30}, True),
    "early, masked and normalized again": (
        {**EARLY, "min_length": 12, "no_repeat_ngram_size": 2, "suppress_tokens": [7], "renormalize_logits": True},
        True,
    ),
    "open, no length penalty": (OPEN, True),
    "open, no length penalty, masked and normalized again": (
        {**OPEN, "min_length": 12, "no_repeat_ngram_size": 2, "renormalize_logits": True}, True,
    ),
    "the shipped model's own": ({"num_beams": 4}, False),
    "open": ({"num_beams": 4, "early_stopping": False, **NO_FORCED_END}, False),
    "never early": ({**EARLY, "early_stopping": "never"}, False),
    "early, no length penalty": ({**EARLY, "length_penalty": 0.0}, False),
    "early, at least 12 tokens": ({**EARLY, "min_length": 12}, False),
    "early, at least 12 new tokens": ({**EARLY, "min_new_tokens": 12}, False),
    "early, no pair twice": ({**EARLY, "no_repeat_ngram_size": 2}, False),
    "early, without some words": ({**EARLY, "bad_words_ids": [[20], [21, 22]]}, False),
    "early, without some tokens": ({**EARLY, "suppress_tokens": [7]}, False),
    "early, a forced end": ({**EARLY, "forced_eos_token_id": 0, "max_length": 8}, False),
    "early, two ends": ({**EARLY, "eos_token_id": [0, 7]}, False),
    "bart-large-cnn's own": (
        {
            **EARLY, "forced_bos_token_id": 30, "forced_eos_token_id": 0, "length_penalty": 2.0, "max_length": 142,
            "min_length": 56, "no_repeat_ngram_size": 3,
        },
        False,
    ),
}  # fmt: skip


def unseen(count: int) -> list[str]:
    """Return texts on which the shipped models were not trained."""
    lines = UNSEEN.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:count]]


def summarize(bench: Bench, folder: Path, texts: list[str]) -> tuple[str, list[str | None]]:
    """Return the name of the chosen backend, and the summaries."""
    spec = bench.spec("summarize", folder)
    summaries = bench.write(spec, texts)
    return str(bench.engine.open(spec)["backend"]), summaries


# Searches that differ by less than the rounding of other precisions.
ALLOWED = frozenset({"the shipped model's own", "open", "early, a forced end"})


@pytest.mark.parametrize("name", SEARCHES)
def test_ctranslate2_does_the_searches_that_are_equal_and_a_few_more_in_other_precisions(
    bench: Bench, tmp_path: Path, name: str
) -> None:
    settings, equal = SEARCHES[name]
    spec = bench.spec("summarize", "synopsis-ddtp")
    folder = copy_with_settings(SYNOPSIS, tmp_path / "model", **settings)
    assignment = Assignment(spec, folder, "cpu", tmp_path, Head.SEQ2SEQ_TEXT)
    generation = Generation(Opening.of(assignment), generation_settings(folder))
    options(generation, spec.model)
    assert (inexact(generation, "float32") is None) is equal
    assert (inexact(generation, "native") is None) is (equal or name in ALLOWED)


@some_and_more(4, 24)
@half_and_more([name for name, (_, equal) in SEARCHES.items() if equal] + ["open", "bart-large-cnn's own"])
def test_each_search_goes_to_a_backend_that_searches_as_generate_does(
    bench: Bench, tmp_path: Path, name: str, count: int
) -> None:
    settings, equal = SEARCHES[name]
    folder = copy_with_settings(SYNOPSIS, tmp_path / "model", **settings)
    texts = unseen(count)
    backend, actual = summarize(bench, folder, texts)
    assert backend == ("ctranslate2" if equal else "transformers")
    require_equal(actual, partial(write_seq2seq, folder, texts, weights=SYNOPSIS))


@pytest.mark.parametrize(
    ("options", "named", "backend"),
    [
        ({"beams": 1}, "auto", "ctranslate2"),
        ({"beams": 3}, "auto", "transformers"),
        ({"beams": 3}, "ctranslate2", "ctranslate2"),
        ({"beams": 3, "dtype": "int8"}, "auto", "ctranslate2"),
    ],
)
def test_beams_are_left_to_transformers_unless_another_backend_is_named_or_alone_has_the_precision(
    bench: Bench, options: dict[str, Any], named: str, backend: str
) -> None:
    assert bench.opens(bench.spec("summarize", "synopsis-ddtp", **options), backend=named) == backend


def test_a_stop_string_of_an_encoder_decoders_files_ends_its_outputs(bench: Bench, tmp_path: Path) -> None:
    folder = copy_with_settings(SYNOPSIS, tmp_path / "model", num_beams=1, stop_strings=["e"])
    texts = unseen(6)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    backend, actual = summarize(bench, folder, texts)
    assert backend == "transformers"
    require_equal(actual, partial(write_seq2seq, folder, texts, tokenizer=tokenizer))


def test_every_task_setting_of_a_config_is_followed_or_refused(bench: Bench, tmp_path: Path) -> None:
    texts = unseen(8)
    settings = {"repetition_penalty": 1.5, "max_new_tokens": 12}
    task_params = {"summarization": {"prefix": "sum up: ", "num_beams": 1, **settings}}
    folder = architectures.t5(tmp_path / "t5", texts, task_specific_params=task_params)
    copy_with_settings(folder, tmp_path / "reference", **settings)
    expected = partial(write_seq2seq, tmp_path / "reference", [f"sum up: {text}" for text in texts])
    require_equal(summarize(bench, folder, texts)[1], expected)
    unknown = architectures.t5(tmp_path / "other", texts, task_specific_params={"summarization": {"mood": "sad"}})
    with pytest.raises(CannotServe, match="asks for mood=sad for this task"):
        bench.engine.open(bench.spec("summarize", unknown))
