"""GLiNER models that docmill cannot compute or that lack files are refused before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, ModelCorrupt, ModelUnsuitable
from docmill.tasks.models import families, gliner, weights
from docmill.tasks.models.families import Family
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.pinning import Pinned
from docmill.tasks.specs.plan import build_spec, options_of
from tests.tasks.fakes import plan_spec

PINNED = Pinned("gliner-small", "0" * 40)
ENCODER: dict[str, Any] = {"model_type": "bert", "max_position_embeddings": 512}
CONFIG: dict[str, Any] = {"max_len": 60, "max_width": 5, "span_mode": "markerV0", "encoder_config": ENCODER}
TAGGER = {"model_type": "bert", "architectures": ["BertForTokenClassification"], "id2label": {"0": "O", "1": "PER"}}


def config(**changes: Any) -> dict[str, Any]:
    """Return the config of a GLiNER model, as docmill reads it."""
    return gliner.read(json.dumps(CONFIG | changes).encode())


def plan_entities(config: dict[str, Any], **options: Any) -> Spec:
    return plan_spec("entities", config, pinned=PINNED, **options)


def save_model(folder: Path, *, tokenizer: bool = True, **changes: Any) -> Path:
    """Save the small files of a GLiNER model beside a dummy weight."""
    folder.mkdir()
    (folder / weights.GLINER_CONFIG).write_text(json.dumps(CONFIG | changes))
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
        (folder / "tokenizer_config.json").write_text("{}")
    return folder


def test_labels_and_threshold_are_part_of_the_spec_only_when_they_are_given() -> None:
    assert plan_entities({}).params == {"algorithm": 2}
    plain = plan_entities(config(), labels="person, disease")
    assert plain.params == {"labels": ["person", "disease"], "algorithm": 2}
    assert plan_entities(config(), labels="person,disease", threshold=0.5) == plain
    lower = plan_entities(config(), labels="person", threshold=0.3)
    assert lower.params == {"labels": ["person"], "threshold": 0.3, "algorithm": 2}


def test_labels_keep_their_order_and_descriptions_in_a_spec_and_in_the_options_made_of_it() -> None:
    options = kinds.options("entities", labels={"person": "name of a person", "disease": ""})
    spec = build_spec("entities", PINNED, options, config())
    assert spec.params["labels"] == [["person", "name of a person"], "disease"]
    read_back, left_out = options_of(spec, Family.GLINER)
    assert (read_back, left_out) == (options, ())
    assert build_spec("entities", PINNED, read_back, config()) == spec


@pytest.mark.parametrize(
    ("options", "model_config", "message"),
    [
        ({}, config(), "gliner-small is a GLiNER model, which has no labels of its own: .*--labels person,disease"),
        (
            {"labels": "a"},
            TAGGER,
            "--labels needs a GLiNER model.*has labels of its own. Leave --labels out, or name",
        ),
        ({"threshold": 0.3}, TAGGER, "--threshold is for GLiNER models"),
        ({"labels": "a", "aggregation": "max"}, config(), "--word-label joins the tokens of a word"),
        ({"labels": {"a": "same", "b": "same"}}, config(), "describes two labels with the same words"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused_with_what_to_do(
    options: dict[str, Any], model_config: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadOption, match=message):
        plan_entities(model_config, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels_encoder": "bge"}, "an encoder of its own for labels; docmill computes those with one encoder"),
        ({"model_type": "gliner_streaming_span"}, "reads streams"),
        ({"words_splitter_type": "stanza"}, "words are split by stanza"),
        ({"encoder_config": ENCODER | {"auto_map": {"AutoModel": "x--y"}}}, "brings code of its own"),
        ({"encoder_config": None}, r"keeps its encoder's config in another model.*save_pretrained\(\"FOLDER\"\)"),
    ],
)
def test_models_of_other_designs_are_refused_as_a_spec_is_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelUnsuitable, match=message):
        plan_entities(config(**changes), labels="person")


def test_a_folder_is_known_by_its_config_and_fingerprinted_with_it(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    folders = ModelFolders(None, tmp_path)
    pinned = pinning.pin(str(folder), folders)
    assert families.family(pinning.read_config(pinned, folders)) is Family.GLINER
    checked = pinning.check(str(folder), folders)
    assert (checked.family, checked.kinds, checked.architecture) == ("GLiNER", ("entities",), "GLiNER")
    (folder / weights.GLINER_CONFIG).write_text(json.dumps(CONFIG | {"max_len": 61}))
    assert pinning.pin(str(folder), folders).revision != pinned.revision


def test_a_folder_without_a_tokenizer_or_with_a_broken_config_is_refused(tmp_path: Path) -> None:
    folders = ModelFolders(None, tmp_path)
    with pytest.raises(ModelCorrupt, match="has no tokenizer"):
        pinning.pin(str(save_model(tmp_path / "bare", tokenizer=False)), folders)
    with pytest.raises(ModelUnsuitable, match=r"keeps its tokenizer in another model on the hub\. Save it whole"):
        gliner.of_folder(tmp_path / "bare", "gliner-small")
    coded = save_model(tmp_path / "coded")
    assert gliner.of_folder(coded, "gliner-small") == config()
    (coded / gliner.TOKENIZER).write_text('{"auto_map": {"AutoTokenizer": ["x--y", null]}}')
    with pytest.raises(ModelUnsuitable, match=r"brings code of its own \(auto_map in tokenizer_config.json\)"):
        gliner.of_folder(coded, "gliner-small")
    broken = save_model(tmp_path / "broken")
    (broken / weights.GLINER_CONFIG).write_text('{"max_len": ')
    with pytest.raises(ModelCorrupt, match="is not whole"):
        pinning.pin(str(broken), folders)


def test_a_window_has_the_tokenizers_limit_and_with_absolute_positions_the_encoders() -> None:
    assert gliner.limit_tokens(config()) == 512
    assert gliner.limit_tokens(config(), 128) == 128
    relative = config(encoder_config={"model_type": "deberta-v2", "position_biased_input": False})
    assert gliner.limit_tokens(relative, 10**30, prompt_tokens=7) == 4 * 60 + 7
    assert gliner.limit_tokens(relative, 128, prompt_tokens=7) == 128
    biased = config(encoder_config={"model_type": "deberta-v2", "max_position_embeddings": 100})
    assert gliner.limit_tokens(biased, 10**30) == 100
