"""A hub's model that is not on the machine: the headers of its weights are read before anything is stored."""

from __future__ import annotations

import shutil
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
NOT_READ = "The weights of org/model were not looked at: "
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoders.llama(tmp_path_factory.mktemp("hub") / "whole", TEXTS)


@pytest.fixture(scope="module")
def headless(whole: Path) -> Path:
    """The layers without the head, as a base checkpoint is saved."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    config = transformers.AutoConfig.from_pretrained(whole)
    return architectures.save(whole.with_name("headless"), transformers.LlamaModel(config), tokenizer)


@contextmanager
def using(
    docmill: Docmill, folder: Path, fault: Callable[[str], int | None] = lambda _: None, token: str | None = None
) -> Iterator[Hub]:
    with serving(Hub({"org/model": folder}, fault, token)) as one:
        (docmill.folder / "home" / "cache" / "rehearsed").unlink()  # other tests' models have the same commit
        docmill.environment |= environment(one.endpoint, docmill.folder)
        yield one


def pipeline(folder: Path) -> Path:
    file = folder / "p.toml"
    file.write_text(
        f'name = "p"\n[corpus]\nsource = "{SOURCE}"\nlimit = 1\n'
        '[[step]]\nname = "more"\ntask = "generate"\nmodel = "org/model"\nprompt = "{text}"\n'
    )
    return file


LACKS = "The files of org/model lack 1 weights that generate computes with, such as lm_head.weight"


@pytest.mark.parametrize(
    "command",
    [("enqueue", "generate", SOURCE, *GENERATE), ("pipeline", "add", "p.toml")],
    ids=["enqueue", "add"],
)
def test_a_model_without_its_head_is_refused_before_anything_is_stored_or_downloaded(
    embedded: Docmill, headless: Path, command: tuple[object, ...]
) -> None:
    pipeline(embedded.folder)
    with using(embedded, headless) as one:
        said = embedded(*command, code=2).stderr
    assert LACKS in said
    assert "Name a model that was trained for generate" in said
    assert embedded.json("jobs") == []
    assert one.sent[WEIGHTS] <= 100_000
    assert not list((embedded.folder / "hf").rglob(WEIGHTS))


def test_a_whole_model_is_enqueued_without_its_weights_and_without_a_word(embedded: Docmill, whole: Path) -> None:
    with using(embedded, whole) as one:
        said = embedded("enqueue", "generate", SOURCE, *GENERATE).stderr
        assert "weights" not in said
        assert one.sent[WEIGHTS] <= 100_000
        one.asked.clear()
        embedded("enqueue", "generate", SOURCE, *GENERATE)
        assert not any(path.endswith(WEIGHTS) for path in one.asked)
        said = embedded("run", "generate", SOURCE, *GENERATE).stderr
        assert "1 done" in said or "1 text" in said
        assert one.sent[WEIGHTS] >= (whole / WEIGHTS).stat().st_size


@pytest.fixture
def shards(embedded: Docmill, whole: Path) -> list[Path]:
    folder = embedded.folder / "sharded"
    shutil.copytree(whole, folder)
    (folder / WEIGHTS).unlink()
    transformers.AutoModelForCausalLM.from_pretrained(whole).save_pretrained(folder, max_shard_size="100KB")
    found = sorted(folder.glob("*.safetensors"))
    assert len(found) > 1
    return found


def test_a_model_whose_shards_are_not_all_on_the_hub_is_refused(embedded: Docmill, shards: list[Path]) -> None:
    shards[-1].unlink()
    with using(embedded, shards[0].parent):
        said = embedded("enqueue", "generate", SOURCE, *GENERATE, code=2).stderr
    assert f"org/model on the hub lacks {shards[-1].name}, which hold weights" in said
    assert embedded.json("jobs") == []


@pytest.fixture
def pickled(embedded: Docmill, headless: Path) -> Path:
    folder = embedded.folder / "pickled"
    shutil.copytree(headless, folder)
    architectures.as_pickle(folder, transformers.AutoModel.from_pretrained(headless))
    return folder


def test_weights_in_pickles_are_not_looked_at_and_the_user_learns_it(embedded: Docmill, pickled: Path) -> None:
    pipeline(embedded.folder)
    with using(embedded, pickled) as one:
        for command in (("pipeline", "check", "p.toml"), ("enqueue", "generate", SOURCE, *GENERATE)):
            assert f"{NOT_READ}they are .bin files" in embedded(*command).stderr
        assert not one.sent["pytorch_model.bin"]
    assert len(embedded.json("jobs")) == 1


@pytest.mark.long
def test_weights_in_pickles_are_looked_at_once_run_has_downloaded_them(embedded: Docmill, pickled: Path) -> None:
    with using(embedded, pickled):
        said = embedded("run", "generate", SOURCE, *GENERATE, code=2).stderr
    assert "such as lm_head.weight" in said
    assert NOT_READ not in said
    assert embedded.json("jobs") == []


@pytest.mark.parametrize("status", [500, pytest.param(SILENT, marks=pytest.mark.long)], ids=["error", "silent"])
def test_a_hub_that_fails_after_it_named_the_commit_refuses_nothing(
    embedded: Docmill, headless: Path, status: int
) -> None:
    """It is asked twice, and then for nothing else."""
    with using(embedded, headless, lambda path: status if path.endswith(WEIGHTS) else None) as one:
        said = embedded("enqueue", "generate", SOURCE, *GENERATE).stderr
        assert f"{NOT_READ}the hub does not answer. A worker checks them" in said
        assert sum(path.endswith(WEIGHTS) for path in one.asked) == 2
    assert len(embedded.json("jobs")) == 1


@pytest.mark.parametrize("status", [500, pytest.param(SILENT, marks=pytest.mark.long)], ids=["error", "silent"])
def test_a_hub_that_never_answers_is_waited_for_once(embedded: Docmill, headless: Path, status: int) -> None:
    with using(embedded, headless, lambda _: status) as one:
        assert (
            "The hub does not answer for org/model"
            in embedded("enqueue", "generate", SOURCE, *GENERATE, code=3).stderr
        )
        assert len(one.asked) == 1
        one.asked.clear()
        said = embedded("enqueue", "generate", SOURCE, *GENERATE, "--revision", COMMIT).stderr
        assert NOT_READ in said
        assert len(one.asked) == 1


def test_a_private_models_token_is_used_and_never_shown(embedded: Docmill, headless: Path) -> None:
    with using(embedded, headless, token="hf_secretsecret"):
        embedded.environment |= {"HF_TOKEN": "hf_secretsecret"}
        done = embedded("enqueue", "generate", SOURCE, *GENERATE, code=2)
        assert "such as lm_head.weight" in done.stderr
        assert "secret" not in done.stderr + done.stdout
        shutil.rmtree(embedded.folder / "hf")
        embedded.environment |= {"HF_TOKEN": "hf_wrong"}
        said = embedded("enqueue", "generate", SOURCE, *GENERATE, "--revision", COMMIT).stderr
        assert f"{NOT_READ}the hub does not show them to this machine" in said
