"""docmill counts a served model's tokens with the model's tokenizer, as the server does."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from tests.tasks.backends.remote.api_server import MODEL, ApiServer, Script, ServerAnswer, error
from tests.tasks.backends.remote.conftest import Serve
from tests.tasks.backends.remote.test_served_models import compute, spec_of
from tests.tasks.specs.test_pinning import copy_tokenizer

TEMPLATE = "{% for turn in messages %}<{{ turn.role }}> {{ turn.content }} </{{ turn.role }}>{% endfor %}<assistant>"
CONTEXT_TOKENS = 96
# Each token is one digit: fewer bytes than docmill estimates.
DENSE = " ".join(str(number % 10) for number in range(400))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the hashes of files out of the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["with a chat template", "without"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with a tokenizer alone."""
    target = copy_tokenizer(tmp_path / "tokenizer")
    if request.param != "without":
        (target / "chat_template.jinja").write_text(TEMPLATE)
    return target


def refusing_script(folder: Path) -> Script:
    """Return the script of a server that counts with the tokenizer and refuses texts over its limit."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def script(request: dict[str, Any], _: int) -> ServerAnswer | None:
        longest = max(len(tokenizer(text)["input_ids"]) for text in request["input"])
        return error(400, "too long") if longest > CONTEXT_TOKENS else None

    return script


def with_tokenizer(spec: Spec, folder: Path) -> Spec:
    """Return a spec with the tokenizer in a folder."""
    folders = ModelFolders(None, folder.parent / "cache")
    pinned = pinning.with_tokenizer(Pinned(spec.model, spec.revision), str(folder), folders)
    return replace(spec, params={**spec.params, **pinned.beside})


def are_done(server: ApiServer, spec: Spec, texts: Sequence[str]) -> list[bool]:
    server.models = [{"id": MODEL, "max_model_len": CONTEXT_TOKENS}]
    return [outcome.status is Status.DONE for outcome in compute(server, spec, texts)]


EMBED = spec_of("embed")


def test_windows_counted_by_a_tokenizer_fit_the_server_where_estimated_windows_do_not(
    serve: Serve, folder: Path
) -> None:
    estimated, counted = serve(refusing_script(folder)), serve(refusing_script(folder))
    assert are_done(estimated, EMBED, [DENSE]) == [False]
    assert are_done(counted, with_tokenizer(EMBED, folder), [DENSE]) == [True]


def test_counts_are_those_of_the_server(folder: Path) -> None:
    by_tokenizer = counter(folder, "name")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("", "A text.", DENSE, "Ünïted 東京 🙂"):
        assert by_tokenizer.of_text(text) == len(tokenizer(text)["input_ids"])
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        if tokenizer.chat_template is not None:
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert by_tokenizer.of_messages(messages) == len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        else:
            contents = tokenizer([message["content"] for message in messages], add_special_tokens=False)
            assert by_tokenizer.of_messages(messages) == sum(map(len, contents["input_ids"])) + 16
    assert counter(None, None).of_text("x" * 30) == 12
    assert counter(None, None).of_messages([{"role": "assistant", "content": None, "tool_calls": ["x" * 30]}]) > 18


def test_a_tokenizer_that_cannot_be_read_is_named(folder: Path, serve: Serve) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "nothing"}}))
    (folder / "vocab.txt").unlink()
    with pytest.raises(CannotServe, match=r"The tokenizer .*tokenizer cannot be read: "):
        compute(serve(), with_tokenizer(EMBED, folder), ["a text"])
