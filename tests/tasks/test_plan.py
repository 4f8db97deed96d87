from __future__ import annotations

from typing import Any

import pytest

from tasks import families, languages
from tasks.errors import BadOption, ModelUnsuitable
from tasks.models import Pinned
from tasks.plan import ALGORITHM, Options, build_spec

PINNED = Pinned("some/model", "0" * 40)
T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
M2M = {"model_type": "m2m_100", "is_encoder_decoder": True}
BERT = {"model_type": "bert"}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}


def test_a_spec_holds_only_what_was_asked_for() -> None:
    spec = build_spec("summarize", PINNED, Options(beams=2), T5)
    assert spec.params == {"beams": 2, "algorithm": ALGORITHM}
    assert spec.quality == "native"


@pytest.mark.parametrize(
    ("kind", "options", "config", "says"),
    [
        ("embed", {"beams": 4}, {}, "--beams has no meaning for embed"),
        ("summarize", {"pooling": "cls"}, {}, "--pooling has no meaning"),
        ("embed", {"pooling": "max"}, {}, "choose one of cls, mean, last"),
        ("embed", {"windows": "some"}, {}, "choose one of mean, all"),
        ("translate", {"beams": 0}, {}, "at least 1"),
        ("summarize", {"dtype": "int3"}, {}, "--dtype int3"),
        ("translate", {"target_lang": "frnch"}, {}, "near: french"),
        ("translate", {"target_lang": "fr"}, T5, "give --from and --to"),
        ("translate", {}, M2M, "give --from and --to"),
        ("classify", {}, {}, "No such task"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    kind: str, options: dict[str, Any], config: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadOption, match=says):
        build_spec(kind, PINNED, Options(**options), config)


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("summarize", GPT2, "summarize needs an encoder-decoder model; some/model is decoder-only (gpt2)."),
        ("translate", BERT, "translate needs an encoder-decoder model; some/model is encoder-only (bert)."),
        (
            "embed",
            M2M,
            "embed needs an encoder-only or a decoder-only model, or a T5; some/model is encoder-decoder (m2m_100).",
        ),
    ],
)
def test_a_model_of_the_wrong_family_is_refused(kind: str, config: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelUnsuitable) as refused:
        build_spec(kind, PINNED, Options(), config)
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
