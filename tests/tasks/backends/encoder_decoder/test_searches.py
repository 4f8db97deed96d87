"""Searches by beams, by whichever backend is chosen: the outputs of transformers' generate, in float32."""

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
from tests.tasks.backends.encoder_decoder.test_ctranslate import edited
from tests.tasks.conftest import Bench
from tests.tasks.deciding import require_equal
from tests.tasks.real_lines import half_and_more, some_and_more
from tests.tasks.reference import seq2seq_texts

UNSEEN = Path(__file__).parents[2] / "texts"
NO_FORCED_END = {"bad_words_ids": None, "forced_eos_token_id": None}
EARLY = {"num_beams": 4, "early_stopping": True, **NO_FORCED_END}
OPEN = {"num_beams": 4, "early_stopping": False, "length_penalty": 0.0, **NO_FORCED_END}

# By name: the settings of a model, and whether CTranslate2 carries them out as transformers does.
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
    "t5-small's own": (
        {**EARLY, "length_penalty": 2.0, "max_length": 200, "min_length": 30, "no_repeat_ngram_size": 3}, False,
    ),
    "bart-large-cnn's own": (
        {
            **EARLY, "forced_bos_token_id": 30, "forced_eos_token_id": 0, "length_penalty": 2.0, "max_length": 142,
            "min_length": 56, "no_repeat_ngram_size": 3,
        },
        False,
    ),
}  # fmt: skip


def unseen(language: str, count: int) -> list[str]:
    lines = (UNSEEN / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:count]]


def outputs(bench: Bench, folder: Path, kind: str, texts: list[str], **asked: Any) -> tuple[str, list[str | None]]:
    """The backend that was chosen, and what it wrote."""
    spec = bench.spec(kind, str(folder), **asked)
    found = [outcome.text for outcome in bench.run(spec, texts)]
    return str(bench.engine.open(spec)["backend"]), found


# Searches that differ less than the rounding of other precisions does.
ALLOWED = frozenset({"the shipped model's own", "open", "early, a forced end"})


@pytest.mark.parametrize("name", SEARCHES)
def test_ctranslate2_does_the_searches_that_it_does_equally_and_in_other_precisions_some_more(
    bench: Bench, tmp_path: Path, name: str
) -> None:
    settings, equal = SEARCHES[name]
    spec = bench.spec("summarize", "synopsis-ddtp")
    folder = edited(bench.folder(spec), tmp_path / "model", **settings)
    assignment = Assignment(spec, folder, "cpu", tmp_path, Head.SEQ2SEQ_TEXT)
    generation = Generation(Opening.of(assignment), generation_settings(folder))
    options(generation, spec.model)
    assert (inexact(generation, "float32") is None) is equal
    assert (inexact(generation, "native") is None) is (equal or name in ALLOWED)


@some_and_more(4, 24)
@half_and_more([name for name, (_, equal) in SEARCHES.items() if equal] + ["open", "bart-large-cnn's own"])
def test_each_search_is_that_of_generate_by_the_backend_that_does_it_equally(
    bench: Bench, tmp_path: Path, name: str, count: int
) -> None:
    settings, equal = SEARCHES[name]
    shipped = bench.folder(bench.spec("summarize", "synopsis-ddtp"))
    folder = edited(shipped, tmp_path / "model", **settings)
    texts = unseen("english", count)
    backend, found = outputs(bench, folder, "summarize", texts)
    assert backend == ("ctranslate2" if equal else "transformers")
    require_equal(found, partial(seq2seq_texts, folder, texts, weights=shipped))


@pytest.mark.parametrize(
    ("asked", "wanted", "backend"),
    [
        ({"beams": 1}, "auto", "ctranslate2"),
        ({"beams": 3}, "auto", "transformers"),
        ({"beams": 3}, "ctranslate2", "ctranslate2"),
        ({"beams": 3, "dtype": "int8"}, "auto", "ctranslate2"),
    ],
)
def test_beams_are_left_to_transformers_unless_another_backend_is_named_or_alone_has_the_precision(
    bench: Bench, asked: dict[str, Any], wanted: str, backend: str
) -> None:
    assert bench.opens(bench.spec("summarize", "synopsis-ddtp", **asked), backend=wanted) == backend


def test_a_text_that_an_encoder_decoders_files_stop_at_ends_its_outputs(bench: Bench, tmp_path: Path) -> None:
    own = {"num_beams": 1, "stop_strings": ["e"]}
    folder = edited(bench.folder(bench.spec("summarize", "synopsis-ddtp")), tmp_path / "model", **own)
    texts = unseen("english", 6)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    backend, found = outputs(bench, folder, "summarize", texts)
    assert backend == "transformers"
    require_equal(found, partial(seq2seq_texts, folder, texts, tokenizer=tokenizer))


def test_every_setting_that_a_config_keeps_for_the_task_is_followed_or_refused(bench: Bench, tmp_path: Path) -> None:
    texts = unseen("english", 8)
    own = {"summarization": {"prefix": "sum up: ", "repetition_penalty": 1.5, "max_new_tokens": 12, "num_beams": 1}}
    folder = architectures.t5(tmp_path / "t5", texts, task_specific_params=own)
    edited(folder, tmp_path / "reference", repetition_penalty=1.5, max_new_tokens=12)
    expected = partial(seq2seq_texts, tmp_path / "reference", [f"sum up: {text}" for text in texts])
    require_equal(outputs(bench, folder, "summarize", texts)[1], expected)
    other = architectures.t5(tmp_path / "other", texts, task_specific_params={"summarization": {"mood": "sad"}})
    with pytest.raises(CannotServe, match="asks for mood=sad for this task"):
        bench.engine.open(bench.spec("summarize", str(other)))
