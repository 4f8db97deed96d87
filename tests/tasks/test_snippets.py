"""On the page for users of transformers, each command gives the output of the snippet before it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from docmill.storage.core.specs import Outcome
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.decoding import seed_of
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.models.weights import ModelFolders
from docmill.worker.cli.commands.run import given_options, run_command
from docmill.worker.settings import load_settings
from docmill.worker.submit.request import spec_of
from tests.tasks import architectures, decoders
from tests.tasks.architectures import copy_with_settings
from tests.tasks.conftest import MARIAN, EngineOf, example_rows, outcomes_of, vector_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from-transformers.md"
PAIR = re.compile(
    r"^## ([^\n]*)\n\n```python\n(.*?)```\n\n```console[^\n]*\n\$ docmill (.*?)```", re.DOTALL | re.MULTILINE
)
PAIRS = {title: (code, command.replace("\\\n", " ")) for title, code, command in PAIR.findall(PAGE.read_text())}
assert len(PAIRS) == 4
TEXTS = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    """Return a folder with small models under the names that the page uses."""
    torch.manual_seed(4)
    folder, texts = tmp_path_factory.mktemp("models"), descriptions[:40]
    loud: dict[str, Any] = {"initializer_factor": 6.0, "tie_word_embeddings": False}
    architectures.t5(folder / "google-t5" / "t5-base", texts, **loud)
    architectures.bert(folder / "google-bert" / "bert-base-uncased", texts)
    decoders.gpt2(folder / "openai-community" / "gpt2", texts)
    (folder / "Helsinki-NLP").mkdir()
    copy_with_settings(MARIAN, folder / "Helsinki-NLP" / "opus-mt-es-en")
    return folder


@pytest.mark.parametrize("title", PAIRS)
def test_the_command_gives_the_outputs_of_the_snippet(
    title: str, models: Path, tmp_path: Path, engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, command = PAIRS[title]
    monkeypatch.chdir(models)
    rows = example_rows("french.jsonl" if "translate" in command else "descriptions.jsonl")
    texts = [" ".join(row["text"].split()[:12]) for row in rows[:TEXTS]]
    outcomes = run_docmill(command, texts, tmp_path, engine_of)
    for text, outcome in zip(texts, outcomes, strict=True):
        answer = run_snippet(code, text)
        if isinstance(answer, str):
            assert outcome.text == answer
        else:
            np.testing.assert_allclose(vector_of(outcome), answer.detach().numpy(), atol=2e-5)
    assert len({outcome.text or outcome.vector for outcome in outcomes}) > 1


def run_docmill(command: str, texts: list[str], home: Path, engine_of: EngineOf) -> list[Outcome]:
    """Return the outcomes of texts under the spec of a command."""
    _, task, *arguments = shlex.split(command)
    task_command = run_command.get_command(click.Context(run_command), task)
    assert task_command is not None
    params = dict(task_command.make_context(task, arguments).params)
    settings = load_settings(home=home)
    options = given_options(task, params, dtype="float32")
    spec = spec_of(settings, task, params["model"], None, options)
    opened: Callable[..., Any] = partial(open_backend, device="cpu", folders=ModelFolders(None, settings.cache_dir))
    return outcomes_of(engine_of(opened), spec, texts)


def run_snippet(code: str, text: str) -> Any:
    """Return a snippet's answer for a text. Before it draws samples, torch is seeded as docmill does for the text."""
    with quiet(), torch.random.fork_rng(devices=[]):
        names: dict[str, Any] = {"text": text}
        if "do_sample" in code:
            tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
            torch.manual_seed(seed_of(0, tokenizer(text)["input_ids"]))
        exec(code, names)
    return names["answer"]
