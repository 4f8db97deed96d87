"""GLiNER models of designs that docmill does not compute, and those that are not whole, are refused before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, ModelCorrupt, ModelUnsuitable
from docmill.tasks.models import families, gliner, weights
from docmill.tasks.models.families import Family
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.pinning import Pinned
from docmill.tasks.specs.plan import build_spec, options_of

PINNED = Pinned("gliner-small", "0" * 40)
ENCODER: dict[str, Any] = {"model_type": "bert", "max_position_embeddings": 512}
CONFIG: dict[str, Any] = {"max_len": 60, "max_width": 5, "span_mode": "markerV0", "encoder_config": ENCODER}
TAGGER = {"model_type": "bert", "architectures": ["BertForTokenClassification"], "id2label": {"0": "O", "1": "PER"}}


def config(**changes: Any) -> dict[str, Any]:
    return gliner.read(json.dumps(CONFIG | changes).encode())


def model(folder: Path, *, tokenizer: bool = True, **changes: Any) -> Path:
    """Write the small files of a model, and weights that no model has."""
    folder.mkdir()
    (folder / weights.GLINER_CONFIG).write_text(json.dumps(CONFIG | changes))
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
        (folder / "tokenizer_config.json").write_text("{}")
    return folder


def test_labels_and_threshold_are_part_of_the_spec_only_when_they_are_given() -> None:
    assert build_spec("entities", PINNED, kinds.options("entities"), {}).params == {"algorithm": 2}
    plain = build_spec("entities", PINNED, kinds.options("entities", labels="person, disease"), config())
    assert plain.params == {"labels": ["person", "disease"], "algorithm": 2}
    spelt = build_spec(
        "entities", PINNED, kinds.options("entities", labels="person,disease", threshold=0.5), config()
    )
    assert spelt == plain
    other = build_spec("entities", PINNED, kinds.options("entities", labels="person", threshold=0.3), config())
    assert other.params == {"labels": ["person"], "threshold": 0.3, "algorithm": 2}


def test_labels_keep_their_order_and_descriptions_in_a_spec_and_in_the_options_made_of_it() -> None:
    given = kinds.options("entities", labels={"person": "name of a person", "disease": ""})
    spec = build_spec("entities", PINNED, given, config())
    assert spec.params["labels"] == [["person", "name of a person"], "disease"]
    options, left_out = options_of(spec, Family.GLINER)
    assert (options, left_out) == (given, ())
    assert build_spec("entities", PINNED, options, config()) == spec


@pytest.mark.parametrize(
    ("options", "of", "said"),
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
    options: dict[str, Any], of: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadOption, match=said):
        build_spec("entities", PINNED, kinds.options("entities", **options), of)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels_encoder": "bge"}, "an encoder of its own for labels; docmill computes those with one encoder"),
        ({"model_type": "gliner_streaming_span"}, "reads streams"),
        ({"words_splitter_type": "stanza"}, "words are split by stanza"),
        ({"encoder_config": ENCODER | {"auto_map": {"AutoModel": "x--y"}}}, "brings code of its own"),
        ({"encoder_config": None}, r"keeps its encoder's config in another model.*save_pretrained\(\"FOLDER\"\)"),
    ],
)
def test_models_of_other_designs_are_refused_as_a_spec_is_made(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelUnsuitable, match=said):
        build_spec("entities", PINNED, kinds.options("entities", labels="person"), config(**changes))


def test_a_folder_is_known_by_its_config_and_fingerprinted_with_it(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    folders = ModelFolders(None, tmp_path)
    pinned = pinning.pin(str(folder), folders)
    assert families.family(pinning.read_config(pinned, folders)) is Family.GLINER
    found = pinning.check(str(folder), folders)
    assert (found.family, found.kinds, found.architecture) == ("GLiNER", ("entities",), "GLiNER")
    (folder / weights.GLINER_CONFIG).write_text(json.dumps(CONFIG | {"max_len": 61}))
    assert pinning.pin(str(folder), folders).revision != pinned.revision


def test_a_folder_without_a_tokenizer_or_with_a_broken_config_is_refused(tmp_path: Path) -> None:
    folders = ModelFolders(None, tmp_path)
    with pytest.raises(ModelCorrupt, match="has no tokenizer"):
        pinning.pin(str(model(tmp_path / "bare", tokenizer=False)), folders)
    with pytest.raises(ModelUnsuitable, match=r"keeps its tokenizer in another model on the hub\. Save it whole"):
        gliner.of_folder(tmp_path / "bare", "gliner-small")
    coded = model(tmp_path / "coded")
    assert gliner.of_folder(coded, "gliner-small") == config()
    (coded / gliner.TOKENIZER).write_text('{"auto_map": {"AutoTokenizer": ["x--y", null]}}')
    with pytest.raises(ModelUnsuitable, match=r"brings code of its own \(auto_map in tokenizer_config.json\)"):
        gliner.of_folder(coded, "gliner-small")
    broken = model(tmp_path / "broken")
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
