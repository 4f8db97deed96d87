"""Object stores: moto's server of S3's protocol, whose keys are never shown."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from docmill.storage.readers import (
    SourceError,
    SourceMissing,
    open_source,
)
from tests.storage.readers.reading import OPTIONS, list_keys, list_texts, read, refused
from tests.storage.readers.test_remote import LINES

KEY, SECRET = "AKIAGEHEIM", "streng-geheim"  # gitleaks:allow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The URL of an object store."""
    from moto.server import ThreadedMotoServer  # Flask's globals break code that searches all modules, such as vLLM

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(address: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket `books`."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import boto3

    fsspec.filesystem("s3").clear_instance_cache()
    books = boto3.resource("s3").Bucket("books")
    books.create()
    books.objects.all().delete()
    return books


def test_lines_and_parts_of_a_table_are_read_from_a_bucket(bucket: Any, tmp_path: Path) -> None:
    texts = [f"{n} " * 100 for n in range(20_000)]
    parquet.write_table(pa.table({"text": texts}), tmp_path / "c.parquet", compression="none")
    bucket.upload_file(str(tmp_path / "c.parquet"), "a/c.parquet")
    bucket.put_object(Key="a/c.jsonl", Body=LINES)
    source = open_source("s3://books/a/c.jsonl", OPTIONS)
    assert (source.name, source.size_bytes()) == ("s3://books/a/c.jsonl", len(LINES))
    assert list_keys(source.records()) == [str(n) for n in range(3_000)]
    assert list_texts(read("s3://books/a/c.parquet")) == texts


def test_a_missing_or_refused_object_is_one_sentence(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "s3://books/no.jsonl: there is no such file" in refused(SourceMissing, "s3://books/no.jsonl")
    assert "there is no such file" in refused(SourceMissing, "s3://nobody/c.jsonl")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    fsspec.filesystem("s3").clear_instance_cache()
    assert "nothing answers at its server's address" in refused(SourceError, "s3://books/c.jsonl")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.filesystem("s3").clear_instance_cache()
    assert "there are no credentials for it; give them as" in refused(SourceError, "s3://books/c.jsonl")


def test_no_key_is_in_a_name_a_message_or_a_log(bucket: Any, caplog: pytest.LogCaptureFixture) -> None:
    bucket.put_object(Key="c.jsonl", Body=LINES)
    messages = ""
    with caplog.at_level(logging.DEBUG):
        caplog.clear()
        for store in ("s3://books", f"s3://{KEY}:{SECRET}@books"):
            for name in ("c.jsonl", "no.jsonl"):
                try:
                    source = open_source(f"{store}/{name}", OPTIONS)
                    messages += source.name + str(list(source.records())[-1].where)
                except SourceError as error:
                    messages += str(error)
    assert SECRET not in messages
    assert messages.count(f"{KEY}:***@") == 2
    assert "geheim" not in caplog.text.lower()
    assert "signature" not in caplog.text.lower()
