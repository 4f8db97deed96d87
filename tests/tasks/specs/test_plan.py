"""Options make a spec, or are refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from docmill.storage.core.specs import Spec
from docmill.storage.json_values import Json
from docmill.tasks import kinds, languages
from docmill.tasks.errors import BadOption, ModelUnsuitable
from docmill.tasks.kinds import instruction
from docmill.tasks.models import families
from docmill.tasks.models.named_prompts import Prompts
from docmill.tasks.specs.pinning import Pinned
from docmill.tasks.specs.plan import ALGORITHM, build_spec

PINNED = Pinned("some/model", "0" * 40)
T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
M2M = {"model_type": "m2m_100", "is_encoder_decoder": True}
BERT = {"model_type": "bert"}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}


def test_a_spec_holds_only_what_was_asked_for() -> None:
    spec = build_spec("summarize", PINNED, kinds.options("summarize", beams=2), T5)
    assert spec.params == {"beams": 2, "algorithm": ALGORITHM}
    assert spec.quality == "native"


def test_a_prompt_and_its_sampling_are_part_of_the_spec() -> None:
    options = kinds.options("generate", prompt="Say: {text}", temperature=1, top_p=1, seed=7, stop=("\n",))
    spec = build_spec("generate", PINNED, options, GPT2)
    expected = {"prompt": "Say: {text}", "temperature": 1.0, "top_p": 1.0, "seed": 7, "stop": ["\n"]}
    assert spec.params == {**expected, "white_space": "kept", "algorithm": ALGORITHM}
    assert Spec.from_json(spec.to_json()) == spec
    assert '"temperature":1.0' in spec.to_json().decode()


def test_a_spec_names_the_version_of_the_built_in_instructions_it_uses() -> None:
    assert build_spec("summarize", PINNED, kinds.options("summarize"), GPT2).params["instructions"] == 2
    assert (
        "instructions"
        not in build_spec("summarize", PINNED, kinds.options("summarize", prompt="{text}"), GPT2).params
    )
    assert "instructions" not in build_spec("summarize", PINNED, kinds.options("summarize"), T5).params


def test_a_length_is_a_number_of_words_that_limits_the_tokens_and_tells_the_model() -> None:
    for given in ("short", "30", 30):
        options = kinds.options("summarize", length=given)
        expected = {"length": 30, "algorithm": ALGORITHM}
        assert build_spec("summarize", PINNED, options, BERT).params == {**expected, "ranking": "centroid-mmr-1"}
        expected |= {"min_new_tokens": 15, "max_new_tokens": 60}
        assert build_spec("summarize", PINNED, options, T5).params == expected
        spec = build_spec("summarize", PINNED, options, GPT2)
        assert spec.params == {**expected, "instructions": 2}
        assert "the following text in about 30 words." in instruction(spec, chat=True).template.fill("A text.")


@pytest.mark.parametrize(
    ("kind", "options", "config", "says"),
    [
        ("embed", {"beams": 4}, {}, "--beams has no meaning for embed"),
        ("summarize", {"pooling": "cls"}, {}, "--pooling has no meaning"),
        ("embed", {"pooling": "max"}, {}, "--pooling must be cls, mean or last, not 'max'"),
        ("embed", {"windows": "some"}, {}, "--windows must be mean or all"),
        ("translate", {"beams": 0}, {}, "at least 1"),
        ("summarize", {"dtype": "int3"}, {}, "--dtype must be auto, float32, bfloat16, float16 or int8, not 'int3'"),
        ("translate", {"target_lang": "frnch"}, {}, "near: french"),
        ("translate", {"target_lang": "fr"}, T5, "give --from and --to"),
        ("translate", {}, M2M, "give --from and --to"),
        ("no such", {}, {}, "No such task"),
        ("generate", {}, {}, "generate needs --prompt"),
        ("generate", {"prompt": "Say it."}, {}, "{text} does not stand in it"),
        ("generate", {"prompt": "{text}", "beams": 2}, GPT2, "--beams is for encoder-decoder models"),
        ("generate", {"prompt": "{text}", "prefix": "a"}, {}, "--prefix has no meaning for generate"),
        ("generate", {}, GPT2, "generate needs --prompt"),
        ("generate", {"prompt": "{text}", "top_p": 0.0}, {}, "--top-p must be above 0"),
        ("generate", {"prompt": "{text}", "temperature": -1.0}, {}, "--temperature must be at least 0"),
        ("generate", {"prompt": "{text}", "temperature": float("nan")}, {}, "--temperature must be between 0 and"),
        ("generate", {"prompt": "{text}", "stop": ("a", "")}, {}, "--stop is empty"),
        (
            "summarize",
            {"prompt": "Sum up {text}"},
            T5,
            "--prompt is for decoder-only models; some/model is encoder-d",
        ),
        ("summarize", {"beams": 4}, GPT2, "--beams is for encoder-decoder models"),
        ("translate", {"target_lang": "fr"}, GPT2, "give --from and --to"),
        ("redact", {"source_lang": "fr"}, {}, "--from has no meaning for redact."),
        ("embed", {"target_lang": "fr"}, {}, "--to has no meaning for embed."),
        ("embed", {"seed": 1}, {}, "--seed has no meaning for embed"),
        ("embed", {"prompt": "passage: "}, {}, "{text} does not stand in it"),
        ("embed", {"prompt": "{text} !"}, {}, "{text} stands at the end"),
        ("embed", {"prompt": "{meta.title}: {text}"}, {}, "has no meaning for an embedding, only {text}"),
        ("embed", {"prompt": "a {text}", "prompt_name": "a"}, {}, "do not go together"),
        ("summarize", {"prompt_name": "a"}, {}, "--prompt-name has no meaning for summarize"),
        ("embed", {"prefix": "a"}, {}, "--prefix has no meaning for embed"),
        ("translate", {"prefix": "a", "source_lang": "auto", "target_lang": "en"}, T5, "give --from with it"),
        ("summarize", {"prefix": "a"}, GPT2, "--prefix is for encoder-decoder models; some/model is decoder-only"),
        ("translate", {"prefix": "a", "source_lang": "fr", "target_lang": "en"}, M2M, "--prefix is for a T5 or summ"),
        (
            "summarize",
            {"length": "brief"},
            {},
            "--length must be short, medium, long or a number of words, not 'brief'",
        ),
        ("summarize", {"length": 0}, {}, "--length must be at least 1"),
        ("summarize", {"length": 9, "max_new_tokens": 5}, T5, "--length sets --max-new-tokens itself: give one"),
        ("summarize", {"length": 9, "min_new_tokens": 5}, GPT2, "--length sets --min-new-tokens itself: give one"),
        (
            "summarize",
            {"length": "long"},
            GPT2 | {"n_positions": 256},
            "An output of 300 tokens is more than some/mo",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    kind: str, options: dict[str, Any], config: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadOption, match=says):
        build_spec(kind, PINNED, kinds.options(kind, **options), config)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (None, {}),
        (Prompts(), {}),
        (Prompts({"query": "Q: "}), {}),
        (Prompts({"query": "Q: ", "document": ""}), {}),
        (Prompts({"query": "Q: ", "document": "D: "}), {"prompt_name": "document"}),
        (Prompts({"query": "Q: ", "document": "D: "}, "query"), {"prompt_name": "document"}),
        (Prompts({"query": "Q: ", "document": "D: "}, "document"), {}),
    ],
)
def test_a_prompt_for_documents_makes_a_spec_of_its_own_where_documents_had_another(
    stated: Prompts | None, expected: dict[str, str]
) -> None:
    spec = build_spec("embed", PINNED, kinds.options("embed"), BERT, stated)
    assert spec.params == {**expected, "algorithm": ALGORITHM}
    worded = build_spec("embed", PINNED, kinds.options("embed", prompt="a {text}"), BERT, stated)
    assert worded.params == {"prompt": "a {text}", "algorithm": ALGORITHM}


def test_a_prompt_by_a_name_that_the_files_do_not_have_is_refused_with_those_they_have() -> None:
    stated = Prompts({"query": "Q: ", "document": "D: ", "sts": ""})
    with pytest.raises(BadOption, match=r"--prompt-name doc: .* some/model are: document, query\. .* use --prompt"):
        build_spec("embed", PINNED, kinds.options("embed", prompt_name="doc"), BERT, stated)
    assert (
        build_spec("embed", PINNED, kinds.options("embed", prompt_name="sts"), BERT, stated).params["prompt_name"]
        == "sts"
    )
    assert (
        build_spec("embed", PINNED, kinds.options("embed", prompt_name="doc"), BERT, None).params["prompt_name"]
        == "doc"
    )


def test_prompts_are_read_of_whatever_stands_in_their_file() -> None:
    config: Json = {"prompts": {"query": "Q: ", "odd": 7}, "default_prompt_name": "query"}
    assert Prompts.of(config) == Prompts({"query": "Q: "}, "query")
    assert Prompts.of([]) == Prompts.of({"prompts": None}) == Prompts()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (T5, {}),
        ({**T5, "feed_forward_proj": "gated-gelu"}, {"prefix": ""}),
        (
            {
                **T5,
                "feed_forward_proj": "gated-gelu",
                "task_specific_params": {"summarization": {"prefix": "summarize: "}},
            },
            {},
        ),
        ({"model_type": "mt5", "is_encoder_decoder": True}, {"prefix": ""}),
        ({"model_type": "longt5", "is_encoder_decoder": True}, {"prefix": ""}),
        ({"model_type": "bart", "is_encoder_decoder": True}, {}),
    ],
)
def test_only_a_t5_that_knows_the_words_is_told_to_summarize(
    config: dict[str, Any], expected: dict[str, str]
) -> None:
    spec = build_spec("summarize", PINNED, kinds.options("summarize"), config)
    assert spec.params == {**expected, "algorithm": ALGORITHM}
    asked = build_spec("summarize", PINNED, kinds.options("summarize", prefix="sum: "), config)
    assert asked.params == {"prefix": "sum: ", "algorithm": ALGORITHM}


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        (
            "generate",
            BERT,
            "generate needs a decoder-only or an encoder-decoder model; some/model is encoder-only (bert).",
        ),
        (
            "translate",
            BERT,
            "translate needs an encoder-decoder or a decoder-only model; some/model is encoder-only (bert).",
        ),
        (
            "embed",
            M2M,
            "embed needs an encoder-only or a decoder-only model, or a T5; some/model is encoder-decoder (m2m_100).",
        ),
    ],
)
def test_a_model_of_the_wrong_family_is_refused(kind: str, config: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelUnsuitable) as refused:
        build_spec(kind, PINNED, kinds.options(kind, prompt="{text}" if kind == "generate" else None), config)
    assert str(refused.value) == says


@pytest.mark.parametrize(
    ("asked", "codes", "expected"),
    [
        ("fr", ["en", "fr"], "fr"),
        ("fr", ["en_XX", "fr_XX"], "fr_XX"),
        ("fr", ["eng_Latn", "fra_Latn"], "fra_Latn"),
        ("French", ["eng_Latn", "fra_Latn"], "fra_Latn"),
        ("fr_XX", ["fr_XX"], "fr_XX"),
        ("de", ["de_DE"], "de_DE"),
        ("zh", ["zho_Hant", "zho_Hans"], "zho_Hans"),
        ("fr", ["fra", "spa"], "fra"),
    ],
)
def test_a_plain_code_finds_each_familys_own(asked: str, codes: list[str], expected: str) -> None:
    assert languages.match(asked, codes) == expected


def test_an_unknown_language_is_refused_with_near_ones() -> None:
    with pytest.raises(BadOption, match="fr_XX"):
        languages.match("fy", ["fr_XX", "en_XX"])


@pytest.mark.parametrize(
    ("config", "others", "expected"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, (512, 256), 256),
        ({"model_type": "roberta", "max_position_embeddings": 514}, (None, None), 512),
        ({"model_type": "t5", "n_positions": 512}, (2048,), 2048),
        ({"model_type": "t5", "n_positions": 512}, (None,), 512),
        ({"model_type": "bart", "max_position_embeddings": 1024}, (int(1e30),), 1024),
        ({}, (), families.OUR_LIMIT_TOKENS),
    ],
)
def test_the_smallest_stated_limit_counts(config: dict[str, Any], others: tuple[int, ...], expected: int) -> None:
    assert families.window_limit(config, *others) == expected
