"""The languages of a model follow from its name and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption
from docmill.tasks.models import language_pairs
from docmill.tasks.models.language_pairs import UNKNOWN, Direction
from docmill.tasks.specs import pinning
from docmill.tasks.specs.pinning import Pinned
from docmill.tasks.specs.plan import ALGORITHM, build_spec

SPANISH = Direction(("es",), ("en",))


def spec_with(direction: Direction, **options: str) -> Spec:
    return build_spec(
        "translate", Pinned("some/model", "0" * 40, direction), kinds.options("translate", **options), {}
    )


def marian(folder: Path, vocabulary: tuple[str, ...] = (), **tokenizer: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "marian"}')
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Helsinki-NLP/opus-mt-es-en", SPANISH),
        ("Helsinki-NLP/opus-mt-tc-big-cat_oci_spa-en", Direction(("ca", "oc", "es"), ("en",))),
        ("/models/opus-mt-en-ROMANCE", Direction(("en",), ())),
        ("Helsinki-NLP/opus-mt-mul-en", Direction((), ("en",))),
        ("t5-small", UNKNOWN),
        ("someone/es-en", UNKNOWN),
    ],
)
def test_an_opus_models_name_says_what_it_translates(name: str, expected: Direction) -> None:
    assert language_pairs.of_name(name) == expected


def test_a_marian_models_files_say_more_than_its_name(tmp_path: Path) -> None:
    plain = marian(tmp_path / "opus-mt-es-en")
    assert language_pairs.of_folder(plain) == SPANISH
    stated = marian(tmp_path / "a" / "opus-mt-es-en", source_lang="fra", target_lang="eng")
    assert language_pairs.of_folder(stated) == Direction(("fr",), ("en",))
    tokens = marian(tmp_path / "opus-mt-en-roa", (">>fra<<", "word", ">>spa<<"), source_lang="en", target_lang="roa")
    assert language_pairs.of_folder(tokens) == Direction(("en",), (), ("fra", "spa"))
    other = marian(tmp_path / "b" / "opus-mt-es-en")
    (other / "config.json").write_text('{"model_type": "t5"}')
    assert language_pairs.of_folder(other) == UNKNOWN


def test_the_shipped_model_reads_french_and_spanish(tmp_path: Path) -> None:
    pinned = pinning.pin("marian-ddtp", models_dir=None, cache_dir=tmp_path)
    assert str(pinned.direction) == "from French or Spanish into English"
    for language in ("fr", "es", "spa_Latn", "French"):
        build_spec("translate", pinned, kinds.options("translate", source_lang=language, target_lang="en"), {})
    with pytest.raises(BadOption) as refused:
        build_spec("translate", pinned, kinds.options("translate", source_lang="de", target_lang="en"), {})
    assert str(refused.value) == "--from de: marian-ddtp translates from French or Spanish into English."
    with pytest.raises(BadOption, match="--to fr: marian-ddtp translates from French"):
        build_spec("translate", pinned, kinds.options("translate", source_lang="es", target_lang="fr"), {})


def test_a_hub_models_name_is_enough_to_refuse() -> None:
    with pytest.raises(BadOption, match="--from fr: some/model translates from Spanish into English"):
        spec_with(language_pairs.of_name("Helsinki-NLP/opus-mt-es-en"), source_lang="fr")


def test_where_nothing_is_known_nothing_is_refused() -> None:
    spec_with(UNKNOWN, source_lang="de", target_lang="fr")
    spec_with(Direction((), ("en",)), source_lang="de")
    spec_with(SPANISH)
    spec_with(Direction(("en",), ("no",)), source_lang="en", target_lang="nb")


@pytest.mark.parametrize(
    "named", [{}, {"source_lang": "es"}, {"target_lang": "en"}, {"source_lang": "es", "target_lang": "en"}], ids=str
)
def test_naming_the_only_pair_of_a_model_makes_the_same_spec(named: dict[str, str]) -> None:
    spec = Spec(
        "translate",
        "some/model",
        "0" * 40,
        "native",
        {"source_lang": "es", "target_lang": "en", "algorithm": ALGORITHM},
    )
    assert spec_with(SPANISH, **named).sha256 == spec.sha256


@pytest.mark.parametrize(
    ("direction", "only"),
    [
        (Direction(("fr", "es"), ("en",)), {"target_lang": "en"}),
        (Direction((), ("en",)), {"target_lang": "en"}),
        (Direction(("en",), ("fr", "es")), {"source_lang": "en"}),
        (Direction(("en",), (), ("fra", "spa")), {"source_lang": "en"}),
    ],
)
def test_naming_the_only_language_of_a_side_makes_the_same_spec(direction: Direction, only: dict[str, str]) -> None:
    other = {name: "fr" for name in ("source_lang", "target_lang") if name not in only}
    assert spec_with(direction, **other) == spec_with(direction, **other, **only)
    assert spec_with(direction, **other).params == {**other, **only, "algorithm": ALGORITHM}


def test_a_language_is_left_open_where_the_model_has_several_or_nothing_is_known() -> None:
    assert spec_with(Direction(("ca", "es"), ("en",))).params == {"target_lang": "en", "algorithm": ALGORITHM}
    assert spec_with(Direction(("en",), ())).params == {"source_lang": "en", "algorithm": ALGORITHM}
    assert spec_with(UNKNOWN).params == {"algorithm": ALGORITHM}
    assert spec_with(SPANISH, source_lang="auto").params["source_lang"] == "auto"


def test_target_tokens_are_matched_and_one_must_be_chosen() -> None:
    romance = Direction(("en",), (), ("fra", "spa"))
    spec_with(romance, target_lang="fr")
    spec_with(Direction((), (), ("fra",)))
    with pytest.raises(BadOption, match="give --to, one of fra, spa"):
        spec_with(romance)
    with pytest.raises(BadOption, match="does not know the language de"):
        spec_with(romance, target_lang="de")


def test_the_direction_is_no_part_of_what_a_model_is() -> None:
    assert Pinned("model", "0", SPANISH) == Pinned("model", "0")
