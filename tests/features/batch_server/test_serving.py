"""The Batch API over HTTP, with OpenAI's own client: who is let in, and what of files and batches is stored."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import openai
import pytest
from sqlalchemy import update

from docmill.features.batch_server import keys, stored_batches, stored_files
from docmill.features.batch_server.serving import UPLOADS_AT_ONCE
from docmill.features.batch_server.stored_files import ApiFile, ApiFileBlock
from docmill.storage.core.database import Database
from tests.features.batch_server.api import LIMITS, Api, chat, put, running, start, wait, write_lines
from tests.storage.builders import count_rows
from tests.worker.harness import DEADLINE_S, until


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[Api]:
    with running(database, tmp_path / "home", replace(LIMITS, batch_lines=3)) as api:
        yield api


@pytest.fixture
def client(api: Api) -> openai.OpenAI:
    return api.client("alice")


TODAY = {"extra_headers": {"Idempotency-Key": "today"}}
PATHS = ("files", "files/x", "files/x/content", "batches", "batches/x", "models", "models/hosted")


@pytest.mark.parametrize("header", [None, "Bearer sk-docmill-wrong", "Basic eDp5", "Bearer "])
def test_nobody_is_let_in_without_a_key(api: Api, header: str | None) -> None:
    for path in PATHS:
        request = Request(f"{api.url}/{path}", headers={} if header is None else {"Authorization": header})
        with pytest.raises(HTTPError) as refused:
            urlopen(request)
        assert refused.value.code == 401
        error = json.loads(refused.value.read())["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert error["message"].endswith(".")


def test_a_revoked_key_is_refused_and_no_key_is_stored(api: Api, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["hosted", "lost"]
    assert client.models.retrieve("hosted").owned_by == "docmill"
    keys.revoke_key(api.database, "alice")
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    with pytest.raises(keys.Refused):
        keys.add_key(api.database, "alice")
    (row,) = keys.list_keys(api.database)
    assert client.api_key.encode() not in row.sha256
    assert not [value for value in vars(row).values() if value == client.api_key]


@pytest.mark.both_stores
def test_a_file_comes_back_as_it_went_in(api: Api, client: openai.OpenAI) -> None:
    content = os.urandom(2 * stored_files.BLOCK_BYTES + 17)
    file = client.files.create(
        file=("größe.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (file.bytes, file.filename, file.purpose, file.status) == (
        len(content),
        "größe.jsonl",
        "batch",
        "processed",
    )
    assert file.expires_at == file.created_at + 3600
    assert client.files.content(file.id).content == content
    assert client.files.retrieve(file.id) == file
    others = [put(client, str(n)) for n in range(4)]
    assert [listed.id for listed in client.files.list(limit=2)] == [
        *reversed(others),
        file.id,
    ]  # which follows the cursor
    assert [listed.id for listed in client.files.list(order="asc", limit=2).data] == [file.id, others[0]]
    assert client.files.list(purpose="batch_output").data == []
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    assert count_rows(api.database, ApiFileBlock) == 4


@pytest.mark.both_stores
def test_a_key_sees_its_own_files_and_batches_alone(api: Api) -> None:
    alice, bob = api.client("alice"), api.client("bob")
    file = put(alice, chat("a", "Hello"))
    batch = start(alice, file)
    assert [listed.id for listed in alice.batches.list()] == [batch.id]
    assert bob.files.list().data == []
    assert bob.batches.list().data == []
    for ask in (
        lambda: bob.files.retrieve(file),
        lambda: bob.files.content(file),
        lambda: bob.files.delete(file),
        lambda: bob.batches.retrieve(batch.id),
        lambda: bob.batches.cancel(batch.id),
        lambda: bob.batches.list(after=batch.id),
        lambda: start(bob, file),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            ask()
        assert refused.value.code == "not_found"
    assert alice.batches.retrieve(batch.id).status == "validating"


@pytest.mark.both_stores
def test_an_idempotency_key_makes_one_file_and_one_batch(api: Api, client: openai.OpenAI) -> None:
    files = {put(client, chat("a", "Hello"), **TODAY) for _ in range(2)}
    assert len(files) == count_rows(api.database, ApiFile) == 1
    with pytest.raises(openai.ConflictError):
        put(client, chat("a", "Bye"), **TODAY)
    (file,) = files
    batches = {start(client, file, **TODAY).id for _ in range(2)}
    assert {batch.id for batch in client.batches.list()} == batches
    assert len(batches) == 1
    with pytest.raises(openai.ConflictError) as refused:
        start(client, file, metadata={"a": "b"}, **TODAY)
    assert refused.value.code == "idempotency_key_reused"
    # Of another key it is another batch.
    other = api.client("bob")
    assert start(other, put(other, chat("a", "Hello"), **TODAY), **TODAY).id not in batches
    assert count_rows(api.database, ApiFile) == 2


def test_an_idempotency_key_of_an_expired_file_may_be_used_again(api: Api, client: openai.OpenAI) -> None:
    first = put(client, chat("a", "Hello"), **TODAY)
    api.database.execute(update(ApiFile).values(expires_at=0.0))
    second = put(client, chat("a", "Hello"), **TODAY)
    assert second != first
    assert put(client, chat("a", "Hello"), **TODAY) == second


@pytest.mark.both_stores
def test_a_repeated_request_gets_its_batch_after_the_input_file_was_deleted(api: Api, client: openai.OpenAI) -> None:
    file = put(client, "oops")
    batch = start(client, file, **TODAY)
    with api.clerk:
        wait(client, batch)
    client.files.delete(file)
    assert start(client, file, **TODAY).id == batch.id
    with pytest.raises(openai.ConflictError):
        start(client, file, metadata={"a": "b"}, **TODAY)
    with pytest.raises(openai.NotFoundError):
        start(client, file)


def test_a_key_has_limits_of_open_requests_and_of_bytes(api: Api) -> None:
    client = api.client("alice", max_requests=3, max_bytes=2_000)
    file = put(client, chat("a", "Hello"), chat("b", "Hello"))
    batch = start(client, file)
    with pytest.raises(openai.RateLimitError) as refused:
        start(client, file)
    assert refused.value.code == "request_limit_exceeded"
    client.batches.cancel(batch.id)
    with api.clerk:
        until(lambda: client.batches.retrieve(batch.id).status == "cancelled", "the end of the batch")
    start(client, file)
    with pytest.raises(openai.RateLimitError) as refused:
        put(client, "x" * 1_900)
    assert "delete files" in refused.value.message
    assert count_rows(api.database, ApiFile) == 1
    client = api.client("bob", max_bytes=200_000)
    assert len({put(client, "x" * 190_000, **TODAY) for _ in range(2)}) == 1


def test_writes_that_happen_twice_count_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    once = Database.write
    # As if the answer of each commit was lost.
    monkeypatch.setattr(Database, "write", lambda self, work: [once(self, work) for _ in range(2)][1])
    client = api.client("alice", max_requests=1, max_bytes=300)
    batch = start(client, put(client, chat("a", "Hello")))
    assert [listed.id for listed in client.batches.list()] == [batch.id]


def test_a_batch_may_have_exactly_as_many_lines_as_the_limits_say(api: Api) -> None:
    def begin(client: openai.OpenAI, text: str) -> int:
        return start(client, client.files.create(file=("a", text.encode()), purpose="batch").id).created_at

    three, four = (write_lines(*(chat(str(n), "Hello") for n in range(n_lines))) for n_lines in (3, 4))
    assert begin(api.client("alice", max_requests=3), three)
    assert begin(api.client("bob", max_requests=3), three.rstrip("\n"))
    with pytest.raises(openai.BadRequestError, match="has 4 lines, and a batch at most 3"):
        begin(api.client("carol"), four.rstrip("\n"))


@pytest.mark.both_stores
def test_what_cannot_be_answered_says_what_to_do(api: Api, client: openai.OpenAI) -> None:
    file, long = put(client, chat("a", "Hello")), put(client, *map(str, range(4)))
    good: dict[str, Any] = {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    wrong: dict[str, dict[str, Any]] = {
        "endpoint": {"endpoint": "/v1/images"},
        "input_file_id": {"input_file_id": long},
        "completion_window": {"completion_window": "soon"},
        "metadata": {"metadata": {"a": "b" * 513}},
        "output_expires_after": {"output_expires_after": {"anchor": "created_at", "seconds": 3600}},
    }
    costs = [{"metadata": {"max_cost": text}} for text in ("cheap", "-1", "nan", "2.50")]  # the server has no prices
    for param, change in (*wrong.items(), *(("metadata", cost) for cost in costs)):
        with pytest.raises(openai.BadRequestError) as refused:
            client.batches.create(**{**good, **change})
        assert refused.value.param == param
        assert refused.value.message.endswith(".")
        assert refused.value.request_id
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("a", b"x"), purpose="fine-tune")
    for anchor, seconds in (("created_at", 0), ("updated_at", 3600)):
        with pytest.raises(openai.BadRequestError) as refused:
            put(client, "x", expires_after={"anchor": anchor, "seconds": seconds})
        assert refused.value.param == "expires_after"
    for ask in (lambda: client.batches.list(limit=0), lambda: client.files.list(extra_query={"order": "up"})):
        with pytest.raises(openai.BadRequestError):
            ask()
    for ask in (lambda: client.batches.list(after="\0"), lambda: client.files.list(after="\0", purpose="\0")):
        with pytest.raises(openai.NotFoundError):
            ask()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="hosted", messages=[])
    with pytest.raises(openai.NotFoundError, match="GET is not possible here"):
        client.get("/files/", cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_\x00")
    start(client, file)
    with pytest.raises(openai.ConflictError) as in_use:
        client.files.delete(file)
    assert in_use.value.code == "file_in_use"
    with pytest.raises(keys.Refused, match="cancel the batch"):
        stored_batches.delete_files(api.database, file)


def test_a_body_that_is_too_long_is_refused_and_stored_nowhere(api: Api, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=("a", bytes(4 * 10**6 + 2**17)), purpose="batch")
    assert refused.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as refused:
        client.batches.create(input_file_id="x" * 2**17, endpoint="/v1/embeddings", completion_window="24h")
    assert refused.value.status_code == 413
    assert count_rows(api.database, ApiFile) == 0


def test_an_upload_that_is_cut_in_half_leaves_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docmill.features.batch_server.serving.LONGEST_WAIT_S", 3600.0)
    client, at = api.client("alice"), urlsplit(api.url)
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {client.api_key}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 3000000\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with ExitStack() as slow:
        for _ in range(UPLOADS_AT_ONCE):
            connection = slow.enter_context(socket.create_connection((at.hostname, at.port), 60))
            connection.sendall(head.encode() + b"y" * 1_500_000)
        with api.client("bob") as bob:
            put(bob, "Uploads of other keys do not wait.", timeout=DEADLINE_S)
    file = put(client, chat("a", "Hello"))
    assert [listed.id for listed in client.files.list()] == [file]
    client.close()
    assert count_rows(api.database, ApiFile) == 2
