"""Specs that no worker could compute are refused before a source is read, and nothing is stored."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.torch import load_file, save_file

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.errors import TaskError
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.worker.settings import Settings
from docmill.worker.submit import rehearsal
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import prepare
from tests.tasks import architectures, decoders
from tests.worker.harness import EXAMPLES, Docmill, run_child

FRENCH = EXAMPLES / "french.jsonl"
TRANSLATE = ("--from", "fr", "--to", "en", "--limit", 2)
TEXTS = ["A terminal emulator.", "A library that reads configuration files.", "Fonts for a screen."]


def cut(folder: Path, part: str = "decoder.layers.1.") -> Path:
    """Copy the French model without one of its layers."""
    shutil.copytree(EXAMPLES / "models" / "marian-ddtp", folder)
    weights = load_file(folder / "model.safetensors")
    remaining = {name: weight for name, weight in weights.items() if part not in name}
    save_file(remaining, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run rehearsals in forks that have the model libraries."""
    monkeypatch.setattr(rehearsal, "run_child", lambda module, order, **_: run_child(module, order))


def test_models_check_says_what_a_models_files_lack(embedded: Docmill) -> None:
    model = cut(embedded.folder / "cut")
    completed = embedded("models", "check", model, code=2)
    assert "suits      none of the tasks there are now" in completed.stdout
    assert f"not        translate: The files of {model} lack 26 weights" in completed.stdout
    embedded("models", "check", model, "--json", code=2)
    whole = architectures.t5(embedded.folder / "whole", TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    alone = transformers.T5EncoderModel.from_pretrained(whole)
    architectures.save(embedded.folder / "alone", alone, tokenizer)
    report = embedded.json("models", "check", embedded.folder / "alone")
    assert report["kinds"] == ["embed"]
    assert report["unfit"].keys() == {"summarize", "translate", "generate", "answer"}
    assert embedded.json("models", "check", whole)["kinds"] == [
        *("summarize", "translate", "embed", "generate", "answer")
    ]


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("name", ["minilm", "marian-ddtp", "synopsis-ddtp", *pinning.ADAPTED])
def test_the_models_that_come_with_docmill_lack_nothing_and_are_not_looked_at(
    name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned, _ = pinning.pin_with_adapter(name, None, ModelFolders(None, settings.cache_dir))
    assert pinned.revision in pinning.SHIPPED
    (kind,) = (kind for kind, default in pinning.DEFAULTS.items() if default == name)
    assert rehearsal.find_lacking(settings, pinned, [kind]) == {}
    monkeypatch.setattr(rehearsal, "run_child", _never)
    rehearsal.require_possible(settings, [Spec(kind, pinned.model, pinned.revision, params=pinned.beside)])


def _never(*_: Any, **__: Any) -> None:
    raise AssertionError("it looked again")


def test_a_spec_that_passed_is_not_rehearsed_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = architectures.t5(tmp_path / "t5", TEXTS)
    pinned = pinning.pin(str(folder), ModelFolders(None, settings.cache_dir))
    spec = Spec("summarize", pinned.model, pinned.revision)
    rehearsal.require_possible(settings, [spec])
    monkeypatch.setattr(rehearsal, "run_child", _never)
    rehearsal.require_possible(settings, [spec])
    changed = Spec("summarize", pinned.model, pinned.revision, params={"beams": 2})
    with pytest.raises(AssertionError, match="looked again"):
        rehearsal.require_possible(settings, [changed])


def test_a_machine_without_model_libraries_leaves_the_rehearsal_to_workers(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = pinning.pin(str(cut(tmp_path / "cut")), ModelFolders(None, settings.cache_dir))
    monkeypatch.setattr("docmill.storage.extras.find_spec", lambda _: None)
    rehearsal.require_possible(settings, [Spec("translate", pinned.model, pinned.revision)])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder that holds 256 tokens."""
    return decoders.llama(tmp_path_factory.mktemp("models") / "llama", TEXTS)


@pytest.fixture(scope="module")
def m2m(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows English and French."""
    return architectures.multilingual(tmp_path_factory.mktemp("models") / "m2m", TEXTS, ["en", "fr"], "m2m_100")


FR_EN = {"source_lang": "fr", "target_lang": "en"}
IMPOSSIBLE: list[tuple[str, str, dict[str, Any], str]] = [
    ("generate", "llama", {"prompt": "{text}", "dtype": "int8"}, "no backend computes generate with decoder-only"),
    ("embed", "llama", {"dtype": "int8"}, "--dtype int8: no backend computes embed with decoder-only models"),
    (
        "generate",
        "llama",
        {"prompt": "{text}", "max_new_tokens": 5000},
        "can write: it holds 256 tokens, with the prompt and a text",
    ),
    ("generate", "llama", {"prompt": "a b c " * 30 + "{text}", "max_new_tokens": 200}, "there is no room for a text"),
    ("generate", "llama", {"prompt": "{text}", "window_tokens": 8}, "A window of 8 tokens leaves no room for text"),
    ("translate", "marian-ddtp", {**FR_EN, "max_new_tokens": 5000}, "it holds 512 tokens"),
    ("translate", "marian-ddtp", {**FR_EN, "window_tokens": 8}, "A window of 8 tokens leaves no room for text"),
    ("embed", "minilm", {"window_tokens": 8}, "Give a larger --window-tokens"),
    ("embed", "classes-ddtp", {}, "classes-ddtp is an adapter of another model or for another task"),
    ("translate", "m2m", {"source_lang": "fr", "target_lang": "eu"}, "eu"),
]


def prepare_request(settings: Settings, task: str, model: str, **options: Any) -> None:
    request = Request(source=str(FRENCH), task=task, model=model, options=kinds.options(task, **options))
    prepare(settings, request)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(("task", "model", "options", "message"), IMPOSSIBLE)
def test_options_that_config_and_tokenizer_rule_out_are_refused_before_the_source_is_read(
    task: str, model: str, options: dict[str, Any], message: str, settings: Settings, request: pytest.FixtureRequest
) -> None:
    model_name = str(request.getfixturevalue(model)) if model in {"llama", "m2m"} else model
    with pytest.raises(TaskError, match=message):
        prepare_request(settings, task, model_name, **options)


@pytest.mark.usefixtures("forked")
def test_options_that_just_fit_are_accepted(settings: Settings, llama: Path) -> None:
    for limits in ({"window_tokens": 60}, {"max_new_tokens": 200}):
        prepare_request(settings, "generate", str(llama), prompt="{text}", **limits)
    prepare_request(settings, "translate", "marian-ddtp", **FR_EN, max_new_tokens=512)


def test_a_backend_that_this_machine_lacks_is_missed_before_anything_is_stored(
    embedded: Docmill, llama: Path
) -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    run = ("run", "generate", FRENCH, "--prompt", "{text}", "--limit", 1, "--model", llama)
    assert "The backend vllm is not installed" in embedded(*run, "--backend", "vllm", code=2).stderr
    stderr = embedded("run", "translate", FRENCH, *TRANSLATE, "--backend", "openvino", code=2).stderr
    assert "The backend openvino does not translate with marian-ddtp" in stderr
    assert embedded.json("jobs") == []
