"""A hub's model that is not on the machine: `run` downloads it before anything is stored, `enqueue` does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import transformers

from tests.tasks import architectures, decoders
from tests.tasks.hub_server import COMMIT, SILENT, Hub, environment, serving
from tests.worker.harness import EXAMPLES, Docmill

TEXTS = ["A terminal emulator.", "A library that reads configuration files.", "Fonts for a screen."]
GENERATE = ("--prompt", "{text}", "--limit", 1, "--model", "org/model")
SOURCE = EXAMPLES / "descriptions.jsonl"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoders.llama(tmp_path_factory.mktemp("hub") / "whole", TEXTS)


@pytest.fixture(scope="module")
def headless(whole: Path) -> Path:
    """A checkpoint of the layers without the head."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    config = transformers.AutoConfig.from_pretrained(whole)
    return architectures.save(whole.with_name("headless"), transformers.LlamaModel(config), tokenizer)


@contextmanager
def using(
    docmill: Docmill, folder: Path, fault: Callable[[str], int | None] = lambda _: None, token: str | None = None
) -> Iterator[Hub]:
    with serving(Hub({"org/model": folder}, fault, token)) as hub:
        (docmill.folder / "home" / "cache" / "rehearsed").unlink()  # other tests' models have the same commit
        docmill.environment |= environment(hub.endpoint, docmill.folder)
        yield hub


def test_a_model_without_its_head_is_refused_once_run_has_downloaded_it_and_nothing_is_stored(
    embedded: Docmill, headless: Path
) -> None:
    with using(embedded, headless, token="hf_secretsecret"):
        embedded.environment |= {"HF_TOKEN": "hf_secretsecret"}
        refused = embedded("run", "generate", SOURCE, *GENERATE, code=2)
    assert (
        "The files of org/model lack 1 weights that generate computes with, such as lm_head.weight" in refused.stderr
    )
    assert "secret" not in refused.stderr + refused.stdout
    assert embedded.json("jobs") == []


def test_a_model_is_enqueued_without_its_weights(embedded: Docmill, whole: Path) -> None:
    with using(embedded, whole) as hub:
        embedded("enqueue", "generate", SOURCE, *GENERATE)
        assert not hub.sent[WEIGHTS]
        assert "1 done" in embedded("run", "generate", SOURCE, *GENERATE).stderr
        assert hub.sent[WEIGHTS] >= (whole / WEIGHTS).stat().st_size


@pytest.mark.parametrize("status", [500, pytest.param(SILENT, marks=pytest.mark.long)], ids=["error", "silent"])
def test_a_hub_that_never_answers_is_waited_for_once(embedded: Docmill, headless: Path, status: int) -> None:
    with using(embedded, headless, lambda _: status) as hub:
        stderr = embedded("enqueue", "generate", SOURCE, *GENERATE, code=3).stderr
        assert "The hub does not answer for org/model" in stderr
        assert len(hub.asked) == 1
        hub.asked.clear()
        embedded("enqueue", "generate", SOURCE, *GENERATE, "--revision", COMMIT)
        assert len(hub.asked) == 1
