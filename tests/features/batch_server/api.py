"""The Batch API on a thread of the test, its clients, and the lines of files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from openai.types import Batch

from docmill.features.batch_server import keys
from docmill.features.batch_server.clerk import Clerk, Limits
from docmill.features.batch_server.serving import make_app
from docmill.storage.core.database import Database
from docmill.worker.settings import Settings
from docmill.worker.web.http_server import serve
from tests.worker.harness import until

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
SOON = {"DOCMILL_UPKEEP_S": "0.2", "DOCMILL_LEASE_S": "3"}  # for workers and servers that tests wait for
MODELS = {"hosted": "null", "lost": "/there/is/no/such/folder"}
LIMITS = Limits(file_bytes=4 * 10**6, batch_lines=50, keep_s=24 * 3600.0)


class Api:
    """A server with its clerk, which carries batches on only where `with api.clerk:` says so."""

    def __init__(self, database: Database, settings: Settings, url: str, clerk: Clerk) -> None:
        self.database, self.settings, self.url, self.clerk = database, settings, url, clerk

    def client(self, name: str, **limits: Any) -> openai.OpenAI:
        """Return OpenAI's client with a new key."""
        limits = {"weight": 1, "max_requests": None, "max_bytes": None, **limits}
        return client(self.url, keys.add_key(self.database, name, **limits))


@contextmanager
def running(database: Database, home: Path, limits: Limits = LIMITS, prices: Path | None = None) -> Iterator[Api]:
    """Serve the API over a store for the length of the block."""
    settings = Settings(home=home, prices=prices)
    clerk = Clerk(settings, database, MODELS, limits)
    with serve(make_app(clerk), "127.0.0.1", 0) as url:
        yield Api(database, settings, f"{url}v1", clerk)


def client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=url, max_retries=0)


def request(custom_id: str, end: str, **body: Any) -> dict[str, Any]:
    """Return a line of a file."""
    body = {"model": "hosted", **body}
    return {"custom_id": custom_id, "method": "POST", "url": f"/v1/{end}", "body": body}


def chat(custom_id: str, *texts: str, **body: Any) -> dict[str, Any]:
    """Return a line of a file that asks for an answer to these messages."""
    messages = [{"role": "user", "content": text} for text in texts]
    return request(custom_id, "chat/completions", messages=messages, **{"temperature": 0, "max_tokens": 9, **body})


def write_lines(*lines: dict[str, Any] | str) -> str:
    """Return the text of a file with these lines."""
    return "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)


def put(client: openai.OpenAI, *lines: dict[str, Any] | str, **more: Any) -> str:
    """Upload a file, and return its id."""
    return client.files.create(file=("in.jsonl", write_lines(*lines).encode()), purpose="batch", **more).id


def start(client: openai.OpenAI, file_id: str, **more: Any) -> Batch:
    return client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


def wait(client: openai.OpenAI, batch: Batch, status: str = "completed") -> Batch:
    """Wait until a batch ends, with this status."""

    def ended() -> Batch | None:
        now = client.batches.retrieve(batch.id)
        return now if now.status in ENDED else None

    ended_batch: Batch = until(ended, f"the end of {batch.id}")
    assert ended_batch.status == status, ended_batch
    return ended_batch


def read(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Return the lines of a file; none without a file."""
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
