"""Templates over a document, and how a model is told to write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.specs import Spec
from tasks import prompts
from tasks.decoding import Decoding, cut_at, decoding
from tasks.errors import BadOption, CannotServe
from tasks.prompts import Template


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@given(st.text(), st.text(), st.text())
def test_whatever_stands_around_the_document_comes_back_as_it_was(before: str, after: str, text: str) -> None:
    template = prompts.around(f"{escaped(before)}{{text}}{escaped(after)}")
    assert template == Template(before, after)
    assert template.fill(text) == before + text + after


@given(st.text(alphabet="{}tex \n"))
def test_a_template_is_taken_or_refused_and_never_anything_else(text: str) -> None:
    try:
        template = prompts.around(text)
    except BadOption:
        return
    assert f"{escaped(template.before)}{{text}}{escaped(template.after)}" == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("Summarize this.", "{text} does not stand in it; put it once"),
        ("{text} and {text}", "{text} stands in it 2 times"),
        ("{{text}}", "{text} does not stand in it"),
        (
            "{document}: {text}",
            "there is no placeholder {document}, only {text} and {meta.FIELD}; a brace is written {{ or }}",
        ),
        ('{"answer": {text}}', "a single { stands in it"),
        ("{text", "a single { stands in it"),
        ("{}{text}", "there is no placeholder {}"),
    ],
)
def test_a_template_that_says_no_place_for_the_document_is_refused(template: str, says: str) -> None:
    with pytest.raises(BadOption) as refused:
        prompts.check(template)
    assert says in str(refused.value)


def spec_of(kind: str = "generate", **params: Any) -> Spec:
    return Spec(kind, "some/model", "0" * 40, params=params)


@pytest.mark.parametrize("source", ["fr", "fra_Latn", "French"])
def test_a_base_model_is_shown_a_pattern_and_stopped_at_the_end_of_its_line(source: str) -> None:
    told = prompts.instruction(spec_of("translate", source_lang=source, target_lang="no"), chat=False)
    assert told.template.fill("Bonjour.").startswith(
        "French: Le livre est sur la table.\nNorwegian: Boken ligger på bordet.\n\nFrench: Demain,"
    )
    assert told.template.fill("Bonjour.").endswith("unntatt mandag.\n\nFrench: Bonjour.\nNorwegian:")
    assert told.stop == ("\n",)
    told = prompts.instruction(spec_of("summarize"), chat=False)
    assert told.template.fill("It is.").count("Summary:") == 2
    assert told.template.fill("It is.").endswith("\n\nText: It is.\nSummary:")


def test_a_language_without_demonstrations_has_the_pattern_alone() -> None:
    told = prompts.instruction(spec_of("translate", source_lang="yo", target_lang="en"), chat=False)
    assert told.template.fill("Kaabo.") == "Yoruba: Kaabo.\nEnglish:"


def test_an_instruction_names_the_languages() -> None:
    told = prompts.instruction(spec_of("translate", source_lang="fr", target_lang="en"), chat=True)
    assert told.template.fill("Bonjour.").startswith("Translate the following text from French into English.")
    assert told.stop == ()


def test_a_translation_between_unnamed_languages_is_refused() -> None:
    with pytest.raises(CannotServe, match="give --from and --to"):
        prompts.instruction(spec_of("translate", target_lang="en"), chat=True)


@pytest.mark.parametrize(
    ("asked", "own", "expected"),
    [
        ({}, {}, Decoding(256)),
        ({}, {"eos_token_id": [2, 3], "max_new_tokens": 9}, Decoding(9, ends=frozenset({2, 3}))),
        (
            {"max_new_tokens": 5, "seed": 2},
            {"max_new_tokens": 9, "eos_token_id": 2},
            Decoding(5, frozenset({2}), seed=2),
        ),
        ({"top_k": 4}, {}, Decoding(256, temperature=1.0, top_k=4)),
        ({}, {"do_sample": True, "top_p": 0.9, "top_k": 20}, Decoding(256, temperature=1.0, top_p=0.9, top_k=20)),
        ({"temperature": 0.5}, {"do_sample": True, "top_p": 0.9}, Decoding(256, temperature=0.5, top_p=0.9)),
        ({"temperature": 0.0}, {"do_sample": True, "top_p": 0.9}, Decoding(256)),
        ({"temperature": 0.5}, {"top_p": 0.9}, Decoding(256, temperature=0.5)),
    ],
)
def test_the_command_comes_before_the_model_and_the_model_before_us(
    asked: dict[str, Any], own: dict[str, Any], expected: Decoding
) -> None:
    assert decoding(spec_of(**asked), own, 4096) == expected


def test_a_small_model_keeps_half_of_its_context_for_the_text() -> None:
    assert decoding(spec_of(), {}, 128).max_new_tokens == 64


def test_a_windows_seed_follows_from_the_specs_and_from_what_is_read() -> None:
    seeds = {Decoding(9, seed=seed).seed_of(ids) for seed in (0, 1) for ids in ([1, 2], [1, 3], [12])}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert Decoding(9).seed_of([1, 2]) == Decoding(20).seed_of((1, 2))


def test_an_output_ends_before_the_first_text_that_ends_it() -> None:
    assert cut_at("one two three", ["three", "two"]) == "one "
    assert cut_at("one", ["two"]) is None
