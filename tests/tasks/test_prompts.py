"""Prompt templates, and the settings by which a model writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from docmill.storage.core.specs import Spec
from docmill.tasks import prompts
from docmill.tasks.backends import decoding as decoding_module
from docmill.tasks.backends.decoding import Decoding, choose_decoding, cut_at, own_settings, seed_of
from docmill.tasks.errors import BadOption, CannotServe
from docmill.tasks.kinds import instruction, stop_texts
from docmill.tasks.prompts import PromptFrame


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@given(st.text(), st.text(), st.text())
def test_a_template_keeps_the_text_around_the_document(before: str, after: str, text: str) -> None:
    template = prompts.around(f"{escaped(before)}{{text}}{escaped(after)}")
    assert template == PromptFrame(before, after)
    assert template.fill(text) == before + text + after


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Summarize this.", "{text} does not stand in it; put it once"),
        ("{text} and {text}", "{text} stands in it 2 times"),
        (
            "{document}: {text}",
            "there is no placeholder {document}, only {text} and {meta.FIELD}; a brace is written {{ or }}",
        ),
        ('{"answer": {text}}', "a single { stands in it"),
        ("{}{text}", "there is no placeholder {}"),
    ],
)
def test_a_template_without_one_place_for_the_document_is_refused(template: str, message: str) -> None:
    with pytest.raises(BadOption) as refused:
        prompts.check(template)
    assert message in str(refused.value)


def spec_of(kind: str = "generate", **params: Any) -> Spec:
    return Spec(kind, "some/model", "0" * 40, params=params)


@pytest.mark.parametrize("source", ["fr", "fra_Latn", "French"])
def test_a_base_model_is_shown_a_pattern_and_stopped_at_the_end_of_its_line(source: str) -> None:
    spec = spec_of("translate", source_lang=source, target_lang="no")
    prompt = instruction(spec, chat=False).fill("Bonjour.")
    assert prompt.startswith(
        "French: Le livre est sur la table.\nNorwegian: Boken ligger på bordet.\n\nFrench: Demain,"
    )
    assert prompt.endswith("unntatt mandag.\n\nFrench: Bonjour.\nNorwegian:")
    assert stop_texts(spec, chat=False) == ("\n",)
    prompt = instruction(spec_of("summarize"), chat=False).fill("It is.")
    assert prompt.count("Summary:") == 2
    assert prompt.endswith("\n\nText: It is.\nSummary:")


def test_a_translation_between_unnamed_languages_is_refused() -> None:
    with pytest.raises(CannotServe, match="give --from and --to"):
        instruction(spec_of("translate", target_lang="en"), chat=True)


SAMPLED: Mapping[str, Any] = {"temperature": 0.5}


@pytest.mark.parametrize(
    ("params", "config", "expected"),
    [
        ({}, {}, Decoding(256)),
        (
            {"max_new_tokens": 5, "seed": 2},
            {"max_new_tokens": 9, "eos_token_id": 2},
            Decoding(5, frozenset({2}), seed=2),
        ),
        ({"top_k": 4}, {}, Decoding(256, temperature=1.0, top_k=4)),
        ({}, {"do_sample": True, "top_p": 0.9, "top_k": 20}, Decoding(256, temperature=1.0, top_p=0.9, top_k=20)),
        ({"temperature": 0.5}, {"do_sample": True, "top_p": 0.9}, Decoding(256, **SAMPLED, top_p=0.9)),
        ({"temperature": 0.5}, {"top_p": 0.9}, Decoding(256, **SAMPLED)),
        ({"temperature": 0.5, "top_k": 0}, {"top_k": 9}, Decoding(256, temperature=0.5)),
        ({"min_p": 0.2}, {"temperature": 0.5}, Decoding(256, temperature=1.0, min_p=0.2)),
        ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 3}, Decoding(256, no_repeat_ngram_size=2)),
        ({}, {"min_length": 40, "suppress_tokens": [5]}, Decoding(256, min_length=40, suppress_tokens=(5,))),
        ({"min_new_tokens": 4}, {"min_length": 40, "min_new_tokens": 9}, Decoding(256, min_new_tokens=4)),
        ({"max_new_tokens": 5}, {"min_new_tokens": 9}, Decoding(5, min_new_tokens=5)),
        ({}, {"stop_strings": "END"}, Decoding(256, closing=("END",))),
        ({"stop": ["."]}, {"stop_strings": ["END"]}, Decoding(256)),
        ({}, {"max_length": 4096}, Decoding(256, max_tokens=4096)),
        ({}, {"max_new_tokens": 7, "max_length": 50}, Decoding(7)),
    ],
)
def test_the_commands_settings_come_before_the_models_and_those_before_our_defaults(
    params: dict[str, Any], config: dict[str, Any], expected: Decoding
) -> None:
    assert choose_decoding(spec_of(**params), config, 4096) == expected


# Settings of transformers' generate that docmill does not follow.
NOT_FOLLOWED = {name for name in GenerationConfig().to_dict() if not name.startswith("_")} - (
    decoding_module.FOLLOWED | decoding_module.WITHOUT_EFFECT | decoding_module.OF_SAMPLES
)


@pytest.mark.parametrize("name", [*sorted(NOT_FOLLOWED), "chat_format", "a_setting_of_the_next_release"])
def test_a_setting_that_is_not_followed_is_refused_unless_it_is_none(name: str) -> None:
    with pytest.raises(
        CannotServe, match=rf"some/model ask for {name}=.*docmill does not do.*copy the model's folder"
    ):
        choose_decoding(spec_of(), {name: 5}, 4096)
    assert choose_decoding(spec_of(), {name: None}, 4096) == Decoding(256)


@pytest.mark.parametrize(
    ("name", "value"), [("eta_cutoff", 1e-3), ("epsilon_cutoff", 1e-3), ("typical_p", 0.9), ("top_h", 0.4)]
)
def test_a_setting_of_sampling_is_refused_only_where_texts_are_sampled(name: str, value: float) -> None:
    config = {"do_sample": True, name: value}
    choices: tuple[dict[str, Any], ...] = ({}, {"temperature": 0.7})
    for params in choices:
        with pytest.raises(CannotServe, match=f"{name}="):
            choose_decoding(spec_of(**params), config, 4096)
    assert choose_decoding(spec_of(temperature=0.0), config, 4096) == Decoding(256)


def test_settings_that_ask_for_nothing_are_taken() -> None:
    defaults = GenerationConfig()
    config = {**defaults.to_dict(), **defaults._get_default_generation_params()}
    config |= {"pad_token_id": 1, "use_cache": False, "max_length": None}
    assert choose_decoding(spec_of(), config, 4096) == Decoding(256)
    assert choose_decoding(spec_of(), {"sequence_bias": [], "guidance_scale": 1.0}, 4096) == Decoding(256)


@pytest.mark.parametrize("name", sorted(decoding_module.EXCLUDE_RECORDS))
def test_a_setting_that_a_schema_may_contradict_is_refused_for_records(name: str) -> None:
    with pytest.raises(CannotServe, match=f"some/model ask for {name}="):
        choose_decoding(spec_of("extract", json_schema="{}"), {name: 3}, 4096)
    assert choose_decoding(spec_of("extract", json_schema="{}"), {name: 0}, 4096).max_new_tokens == 1024


def test_a_length_of_prompt_and_output_together_asks_for_a_choice() -> None:
    with pytest.raises(CannotServe, match=r"prompt and output 50 tokens together \(max_length\).*--max-new-tokens"):
        choose_decoding(spec_of(), {"max_length": 50}, 4096)


def test_the_settings_for_text_generation_fill_what_the_generation_config_leaves_open() -> None:
    config = {"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "top_k": 7}}}
    settings = own_settings(config, {"top_k": 9, "max_length": None})
    assert settings == {"do_sample": True, "max_length": 50, "top_k": 9}
    assert own_settings({"task_specific_params": None}, {}) == {}
    with pytest.raises(CannotServe, match="ask for prefix=Once"):
        choose_decoding(
            spec_of(), own_settings({"task_specific_params": {"text-generation": {"prefix": "Once"}}}, {}), 4096
        )


def test_a_windows_seed_depends_on_the_specs_seed_and_on_the_tokens() -> None:
    seeds = {seed_of(seed, ids) for seed in (0, 1) for ids in ([1, 2], [1, 3], [12])}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, [1, 2]) == seed_of(0, (1, 2))


def test_an_output_ends_before_the_first_text_that_ends_it() -> None:
    assert cut_at("one two three", ["three", "two"]) == "one "
    assert cut_at("one", ["two"]) is None
