"""The adapters that come with docmill do on real descriptions what their cards say, and are small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from docmill.tasks.errors import ModelNotFound, ModelUnsuitable
from docmill.tasks.models import adapters as files
from docmill.tasks.specs import pinning
from tests.tasks.conftest import EXAMPLES, Bench

MODELS = EXAMPLES / "models"
MOST_BYTES = 3_000_000


def test_the_tagger_finds_the_names_in_descriptions(benches: Callable[[str], Bench], descriptions: list[str]) -> None:
    bench = benches("transformers")
    spec = bench.spec("entities", "entities-ddtp", aggregation="average")
    rows = [0, 10, 22]
    found = [
        {(one["label"], one["text"]) for one in outcome.data["spans"]}
        for outcome in bench.run(spec, [descriptions[row] for row in rows])
        if outcome.data is not None
    ]
    assert ("package", "Backstretch") in found[0]
    assert {("package", "Lowdown"), ("format", "Markdown"), ("format", "HTML5")} <= found[1]
    assert ("url", "https://github.com/golang/snappy") in found[2]


def test_the_answerer_answers_with_a_part_of_the_text_or_not_at_all(
    benches: Callable[[str], Bench], descriptions: list[str]
) -> None:
    bench = benches("transformers")
    asked = {
        "what": "What is Backstretch?",
        "has": "What does the package contain?",
        "language": "What is it written in?",
    }
    spec = bench.spec("answer", "answers-ddtp", question=asked)
    outcomes = bench.run(spec, [descriptions[row] for row in (0, 6)])
    answers = [[(outcome.data or {})["data"][name] for name in asked] for outcome in outcomes]
    assert answers[0] == ["a simple jQuery plugin", None, None]
    assert answers[1][1:] == ["the localization of Firefox ESR in Malay", None]


def test_the_classifier_says_what_a_package_is_for(benches: Callable[[str], Bench], descriptions: list[str]) -> None:
    bench = benches("transformers")
    outcomes = bench.run(bench.spec("classify", "classes-ddtp"), [descriptions[row] for row in (90, 140, 155, 202)])
    labels = [(outcome.data or {})["labels"] for outcome in outcomes]
    assert [scores[0]["label"] for scores in labels] == ["games", "science", "text", "media"]
    assert {one["label"] for one in labels[0]} == {
        "development", "games", "media", "network", "science", "system", "text",
    }  # fmt: skip


@pytest.mark.parametrize("name", pinning.ADAPTED)
def test_an_adapter_of_ours_is_small_has_a_card_and_is_one_spec_by_both_its_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = MODELS / name
    assert sum(file.stat().st_size for file in folder.iterdir()) <= MOST_BYTES
    assert {file.name for file in folder.iterdir()} == {*files.FILES, "README.md"}
    assert json.loads((folder / files.CONFIG).read_text())["base_model_name_or_path"].endswith("/all-MiniLM-L6-v2")
    base = pinning.ADAPTED[name]
    pinned, config = pinning.pin_with_adapter(name, None, models_dir=None, cache_dir=tmp_path)
    assert (pinned, config) == pinning.pin_with_adapter(base, name, models_dir=None, cache_dir=tmp_path)
    assert pinned.beside[pinning.ADAPTER_REVISION] in pinning.SHIPPED
    with pytest.raises(ModelUnsuitable, match=f"{name} is an adapter of {base}, and takes no other"):
        pinning.pin_with_adapter(name, "another", models_dir=None, cache_dir=tmp_path)
    monkeypatch.setattr(pinning, "SHIPPED_FOLDER", tmp_path)
    with pytest.raises(ModelNotFound, match=f"{name} is not on this machine"):
        pinning.pin_with_adapter(name, None, models_dir=None, cache_dir=tmp_path)


def test_every_name_of_a_model_is_described() -> None:
    assert set(pinning.NAMES) == {*pinning.ALIASES, *pinning.ADAPTED}
