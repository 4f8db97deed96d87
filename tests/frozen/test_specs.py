"""The specs that people's stores have results under stay the same: one that changes makes people compute anew.

`specs.json` holds specs of summaries, translations, embeddings and generated texts with the options of each: what was
given, and the id. A line that is there stays as it is. Add lines for new options and kinds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.models.families import Direction
from docmill.tasks.models.sentence_modules import Prompts
from docmill.tasks.specs import pinning, plan
from docmill.tasks.specs.pinning import Pinned
from docmill.worker.settings import load_settings
from docmill.worker.submit.request import spec_of
from tests.worker.harness import Docmill

FROZEN = json.loads(Path(__file__).with_name("specs.json").read_text(encoding="utf-8"))
MODELS: Mapping[str, Mapping[str, Any]] = FROZEN["models"]


def test_every_frozen_spec_is_made_again() -> None:
    for group in FROZEN["specs"]:
        for options, quality, params, id_ in group["cases"]:
            spec = planned(group["kind"], group["model"], options)
            assert (spec.quality, json.loads(spec.to_json())["params"]) == (quality, params), (group["kind"], options)
            assert spec.sha256.hex() == id_, (group["kind"], group["model"], options)


def planned(kind: str, model: str, options: Mapping[str, Any]) -> Spec:
    """Return the spec of a task. The names of options are those of a pipeline file's keys."""
    fields = {name.replace("-", "_"): value for name, value in options.items()}
    named = {{"from": "source_lang", "to": "target_lang"}.get(name, name): value for name, value in fields.items()}
    made = kinds.options(kind, **named)
    by_language = plan.parse_models(model)
    if by_language is None:
        pinned, config, prompts = pinned_model(model)
        return plan.build_spec(kind, pinned, made, config, prompts if kind == "embed" else None)
    parts = {language: pinned_model(name)[:2] for language, name in by_language.items()}
    return plan.build_spec_per_language(kind, parts, made)


def pinned_model(name: str) -> tuple[Pinned, Mapping[str, Any], Prompts | None]:
    """Return a model of `specs.json`, its config, and the prompts in its files."""
    model = MODELS[name]
    direction = Direction(**{side: tuple(codes) for side, codes in model.get("direction", {}).items()})
    prompts = Prompts.of(model["prompts"]) if "prompts" in model else None
    return Pinned(name, model["revision"], direction), model["config"], prompts


@pytest.mark.parametrize(
    ("kind", "options", "id_"),
    [
        ("embed", {}, "54575e03d248e3aec75e922ae72d10304b6858576e36d13303c8dcb07354cde8"),
        ("translate", {}, "b1fa1da0d612abd261ddc6afbae03b5926325de62d702038b62bb38cb266b1ef"),
        (
            "translate",
            {"source_lang": "fr", "target_lang": "en"},
            "99b887eeac4d059ff867e3d1a6ddc7f89aafd9d81d77a65b0140e26de7dbe01f",
        ),
        (
            "translate",
            {"source_lang": "auto"},
            "fb03ccf14ba5563cc524d8da69f5b0042d8bef43a2a745b916273817c9e003be",
        ),
        ("summarize", {}, "f517ce364331ac9d7c096c95d71798e216f4d09890882ca4c503205e482e4737"),
    ],
)
def test_the_models_that_come_with_docmill_make_the_same_specs(
    kind: str, options: dict[str, Any], id_: str, tmp_path: Path
) -> None:
    spec = spec_of(load_settings(home=tmp_path), kind, pinning.DEFAULTS[kind], None, kinds.options(kind, **options))
    assert spec.sha256.hex() == id_


def test_a_model_of_the_hub_and_the_setting_of_the_precision_make_the_same_spec(tmp_path: Path) -> None:
    model = MODELS["hub/bert"]
    folder = tmp_path / "hub" / "models--hub--bert"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(model["revision"])
    (folder / "snapshots" / model["revision"]).mkdir(parents=True)
    (folder / "snapshots" / model["revision"] / "config.json").write_text(json.dumps(model["config"]))
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "text": "Un texte.", "title": "Titre"}\n')
    offline = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "DOCMILL_DTYPE": "float16"}
    docmill = Docmill(tmp_path, offline)
    docmill("enqueue", "embed", "corpus.jsonl", "--model", "hub/bert")
    store = Path(docmill.environment["DOCMILL_HOME"]) / "docmill.db"
    with closing(sqlite3.connect(store)) as connection:
        [[stored]] = connection.execute("SELECT sha256 FROM spec")
    (cases,) = [one["cases"] for one in FROZEN["specs"] if (one["kind"], one["model"]) == ("embed", "hub/bert")]
    assert [stored.hex()] == [id_ for options, _, _, id_ in cases if options == {"dtype": "float16"}]
