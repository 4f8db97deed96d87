"""The ordinary path of a hub id, against a hub of our own, in processes of their own (the hub's client reads
its settings at import)."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from docmill.tasks.backends.convert import safe_folder
from docmill.tasks.errors import HubUnreachable
from docmill.tasks.specs import pinning
from tests.tasks import architectures, decoders
from tests.tasks.hub_server import COMMIT, Hub, environment, hub, serving
from tests.worker.harness import run_child, run_program

PROGRAM = """
import json, sys
from pathlib import Path
from docmill.tasks.errors import TaskError
from docmill.tasks.specs import pinning

cache, answers = Path(sys.argv[1]), []
for model in sys.argv[2:]:
    try:
        pinned = pinning.pin(model, models_dir=None, cache_dir=cache)
        config = pinning.read_config(pinned, models_dir=None)
        folder = pinning.locate(pinned, models_dir=None, cache_dir=cache)
        files = sorted(path.name for path in folder.iterdir())
        answers.append({"revision": pinned.revision, "type": config["model_type"], "files": files})
    except TaskError as error:
        answers.append({"error": type(error).__name__, "message": str(error)})
print(json.dumps(answers))
"""


def use(endpoint: str, home: Path, *models: str, **variables: str) -> list[dict[str, Any]]:
    """Return the revision, type and files of each model on a hub, or the error."""
    settings = {**os.environ, **environment(endpoint, home), **variables}
    answers: list[dict[str, Any]] = json.loads(run_program(PROGRAM, home / "docmill", *models, environment=settings))
    return answers


@pytest.fixture(scope="module")
def small_t5(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    folder = architectures.t5(tmp_path_factory.mktemp("hub") / "t5-small", descriptions[:40])
    (folder / "pytorch_model.bin").write_bytes(b"must not be fetched")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"nor this")
    return folder


def test_a_hub_id_is_pinned_to_its_commit_and_downloaded_then_works_offline(small_t5: Path, tmp_path: Path) -> None:
    with hub("t5-small", small_t5) as (endpoint, asked):
        answer, other = use(endpoint, tmp_path, "t5-small", "nobody/nothing")
        assert (answer["revision"], answer["type"]) == (COMMIT, "t5")
        assert "model.safetensors" in answer["files"]
        assert not {"pytorch_model.bin", "model.onnx"} & {path.rpartition("/")[2] for path in asked}
        assert other["error"] == "ModelNotFound"
        assert "check the name" in other["message"]
    # The hub is gone: what the cache last saw under the name is still a commit, and its files are here.
    again, other = use(endpoint, tmp_path, "t5-small", "some/model")
    assert again == answer
    assert other["error"] == "HubUnreachable"
    assert "copy the model's folder here" in other["message"]
    assert "Did you mean" not in other["message"]
    (offline,) = use(endpoint, tmp_path, "some/model", HF_HUB_OFFLINE="1")
    assert offline["error"] == "HubUnreachable"
    assert "HF_HUB_OFFLINE is set" in offline["message"]


@pytest.mark.parametrize("name", ["minilmm", "all-MiniLM-L6-v2"])
def test_a_name_that_is_nearly_one_of_ours_is_asked_about(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise HubUnreachable

    monkeypatch.setattr("docmill.tasks.models.hub.commit_of", refuse)
    with pytest.raises(HubUnreachable, match=r"Did you mean minilm\?$"):
        pinning.pin(name, models_dir=None, cache_dir=tmp_path)


WEIGHTS = "model.safetensors"


def sentences(folder: Path, texts: list[str]) -> Path:
    """A BERT whose weights lie in a folder of their own, its mean and a dense layer."""
    reader = Transformer(str(architectures.bert(folder / "bert", texts)))
    modules = [reader, Pooling(reader.get_embedding_dimension(), "mean"), Dense(reader.get_embedding_dimension(), 8)]
    SentenceTransformer(modules=modules).save(str(folder / "whole"))
    return folder / "whole"


def base(folder: Path, texts: list[str]) -> Path:
    """A Qwen3 as a checkpoint of its layers, without its head and without the prefix of its names."""
    whole = decoders.qwen3(folder / "whole", texts)
    config = transformers.AutoConfig.from_pretrained(whole)
    config.tie_word_embeddings = False
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    return architectures.save(folder / "base", transformers.Qwen3Model(config), tokenizer)


def masked(folder: Path, texts: list[str]) -> Path:
    """A BERT under the head of its pre-training: all names have the prefix ``bert.``."""
    whole = architectures.bert(folder / "whole", texts)
    model = transformers.BertForMaskedLM(transformers.AutoConfig.from_pretrained(whole))
    return architectures.save(folder / "masked", model, transformers.AutoTokenizer.from_pretrained(whole))


def half(folder: Path, texts: list[str]) -> Path:
    model = decoders.llama(folder / "llama", texts)
    weights = {name: weight.half() for name, weight in load_file(model / WEIGHTS).items()}
    save_file(weights, model / WEIGHTS, {"format": "pt"})
    return model


def sharded(folder: Path, texts: list[str]) -> Path:
    whole = decoders.llama(folder / "whole", texts)
    model = transformers.AutoModelForCausalLM.from_pretrained(whole)
    architectures.save(folder / "sharded", model, transformers.AutoTokenizer.from_pretrained(whole))
    (folder / "sharded" / WEIGHTS).unlink()
    model.save_pretrained(folder / "sharded", max_shard_size="100KB")
    assert len([*(folder / "sharded").glob("*.safetensors")]) > 1
    return folder / "sharded"


MAKERS: dict[str, Callable[[Path, list[str]], Path]] = {
    "t5": architectures.t5,
    "bart": architectures.bart,
    "pegasus": architectures.pegasus,
    "marian": architectures.marian,
    "m2m": lambda folder, texts: architectures.multilingual(folder, texts, ["en", "fr"], "m2m_100"),
    "mbart": lambda folder, texts: architectures.multilingual(folder, texts, ["en_XX", "fr_XX"], "mbart"),
    "bert": architectures.bert,
    "roberta": architectures.roberta,
    "gpt2": decoders.gpt2,
    "llama": decoders.llama,
    "qwen2": decoders.qwen2,
    "qwen3": decoders.qwen3,
    "gemma3": decoders.gemma3,
    "sentences": sentences,
    "base": base,
    "masked": masked,
    "half": half,
    "sharded": sharded,
}


SOME = ["t5", "gpt2", "sentences", "base", "sharded"]


def damage(folder: Path, *, reshape: bool) -> Path:
    """Drop one weight of an inner layer, or give it another shape."""
    for file in sorted(folder.rglob("*.safetensors")):
        weights = load_file(file)
        inner = [name for name in weights if "1." in name and "norm" not in name.lower()]
        if inner:
            if reshape:
                weights[inner[0]] = torch.zeros(3, 5)
            else:
                del weights[inner[0]]
            save_file(weights, file, {"format": "pt"})
            return folder
    raise AssertionError(f"{folder} has no inner layer")


def ask(
    models: dict[str, Path], home: Path, one: Hub, names: Collection[str] = MAKERS.keys()
) -> dict[str, list[str | None]]:
    order = {
        "cache_dir": str(home / "cache"),
        "commit": COMMIT,
        "models": {name: str(folder) for name, folder in models.items()},
        "of_every_kind": [*names],  # what is damaged is damaged for each kind
    }
    given = {**os.environ, **environment(one.endpoint, home)}
    done = run_child("tests.tasks.models.outline_verdicts", json.dumps(order).encode(), given)
    assert done.returncode == 0, done.stderr.decode()
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.parametrize("names", [SOME, pytest.param([*MAKERS], marks=pytest.mark.long)], ids=["some", "all"])
def test_headers_give_the_verdict_of_the_files_for_every_family(
    names: list[str], tmp_path: Path, descriptions: list[str]
) -> None:
    made = {name: MAKERS[name](tmp_path / name, descriptions[:20]) for name in names}
    models = {name: safe_folder(folder, f"sha256:{name}", tmp_path) for name, folder in made.items()}
    for name, how in zip(names, itertools.cycle(("cut", "bent"))):
        copy = Path(shutil.copytree(models[name], tmp_path / f"{name}-{how}"))
        models[f"{name}-{how}"] = damage(copy, reshape=how == "bent")
    with serving(Hub(models)) as one:
        answers = ask(models, tmp_path, one, names)
    assert {what: theirs for what, (_, theirs) in answers.items()} == {
        what: ours for what, (ours, _) in answers.items()
    }
    lacking = {
        what.split()[0]
        for what, (ours, _) in answers.items()
        if ours is not None and not ours.startswith("ModelUnsuitable")  # an encoder of another kind than SPLADE's
    }
    assert lacking == {name for name in models if name not in MAKERS} | {"base"}


@pytest.mark.long
@pytest.mark.parametrize("knows_ranges", [True, False])
def test_no_weights_are_fetched_not_even_from_a_hub_that_ignores_ranges(
    tmp_path: Path, knows_ranges: bool, descriptions: list[str]
) -> None:
    folder = architectures.bert(tmp_path / "bert", descriptions[:20])
    weights = load_file(folder / WEIGHTS) | {"far": torch.zeros(30_000_000, dtype=torch.uint8)}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    with safe_open(str(folder / WEIGHTS), "pt") as file:
        assert "far" in file.keys()  # noqa: SIM118 - it is no mapping
    with serving(Hub({"bert": folder}, knows_ranges=knows_ranges)) as one:
        assert ask({"bert": folder}, tmp_path, one)["bert embed"] == [None, None]
        assert one.sent[WEIGHTS] <= 100_000 if knows_ranges else one.sent[WEIGHTS] < 15_000_000
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
