"""Other clients of the Batch API: OpenAI's for Node, and LiteLLM. They are skipped where they are not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from docmill.features.batch_server import keys
from docmill.worker.settings import Settings
from docmill.worker.stores import open_store
from tests.features.batch_server.api import SOON, Api, chat, running
from tests.worker.harness import SHARED, Docmill, until


@pytest.fixture
def api(embedded: Docmill) -> Iterator[Api]:
    embedded.loads_models = False
    embedded.environment |= SOON
    home = embedded.folder / "home"
    with (
        open_store(Settings(home=home)) as database,
        running(database, home) as api,
        api.clerk,
        embedded.worker(),
    ):
        yield api


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks a server for prices
    return pytest.importorskip("litellm", reason="the test of LiteLLM needs its package: pip install litellm")


@pytest.fixture
def folder_of_node() -> Path:
    """Return a folder with OpenAI's package for Node, which npm installs once for all tests of a session."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("OpenAI's client for Node needs node and npm (on Debian: apt install nodejs npm)")
    folder = SHARED / "node"
    folder.mkdir(exist_ok=True)
    if not (folder / "node_modules" / "openai").is_dir():
        command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "openai@6"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            pytest.skip("npm cannot install OpenAI's client: is its registry out of reach?")
    return folder


@pytest.mark.long
def test_openais_client_for_node_parses_every_answer_and_error(folder_of_node: Path, api: Api) -> None:
    folder = folder_of_node
    shutil.copy(Path(__file__).with_name("client.mjs"), folder / "client.mjs")
    key = keys.add_key(api.database, "node", weight=1)
    done = subprocess.run(["node", "client.mjs", api.url, key], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["statuses"][0], found["statuses"][-1]) == ("validating", "completed")
    assert found["counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert found["metadata"] == {"from": "node"}
    assert [line["custom_id"] for line in found["answers"]] == ["a"]
    assert found["errors"][0]["response"]["body"]["error"]["message"].startswith("in.jsonl:2: not JSON")
    assert found["refused"] == [True, True]
    assert found["listed"]
    assert found["deleted"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the library
def test_the_batch_calls_of_litellm_work(litellm: Any, api: Api, tmp_path: Path) -> None:
    given = {
        "api_base": api.url,
        "api_key": keys.add_key(api.database, "litellm", weight=1),
        "custom_llm_provider": "openai",
    }
    (tmp_path / "in.jsonl").write_text(json.dumps(chat("a", "Hello")) + "\n")
    with (tmp_path / "in.jsonl").open("rb") as opened:
        file = litellm.create_file(file=opened, purpose="batch", **given)
    batch = litellm.create_batch(
        completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, **given
    )
    assert batch.id in {one.id for one in litellm.list_batches(**given).data}
    done = until(
        lambda: (now := litellm.retrieve_batch(batch_id=batch.id, **given)).status == "completed" and now, "its end"
    )
    line = json.loads(litellm.file_content(file_id=done.output_file_id, **given).content)
    assert ChatCompletion.model_validate(line["response"]["body"]).model == "hosted"
