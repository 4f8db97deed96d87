"""A batch file as a whole: what its requests have in common, and files that are none."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from docmill.features.batch_server.file import (
    MOST_CALLS,
    BatchFile,
    BatchRequest,
    BodySettings,
    CallSource,
    open_batch,
    survey,
)
from docmill.features.batch_server.writer import CHAT, COMPLETIONS, EMBEDDINGS, REQUEST, RESPONSES
from docmill.storage.readers.records import Record, Rejection
from docmill.worker.errors import WorkerError

BODY_SETTINGS = BodySettings("float32")


def line(custom_id: object, url: str = EMBEDDINGS, **body: Any) -> str:
    messages = [{"role": "user", "content": "a"}]
    inputs: dict[str, Any] = {CHAT: {"messages": messages}, COMPLETIONS: {"prompt": "a"}, EMBEDDINGS: {"input": "a"}}
    whole = {"model": "m", **inputs[url], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": whole}) + "\n"


def write_file(folder: Path, *lines: str, name: str = "batch.jsonl") -> str:
    (folder / name).write_text("".join(lines))
    return str(folder / name)


@pytest.fixture
def opened() -> Iterator[Callable[..., BatchFile]]:
    """Opens batch files until the test ends."""
    with ExitStack() as stack:
        yield lambda source: stack.enter_context(open_batch(source, BODY_SETTINGS))


def test_requests_with_the_same_parameters_belong_together(tmp_path: Path, opened: Callable[..., BatchFile]) -> None:
    lines = [
        line("a"),
        line("b", CHAT),
        line("c", dimensions=3),
        line("d", CHAT, temperature=0),
        line("e", model="o"),
    ]
    calls, n_requests, n_refused = survey(opened(write_file(tmp_path, *lines)))
    assert [(call.url, call.model, place) for call, place in calls.items()] == [
        (EMBEDDINGS, "m", "batch.jsonl:1"),
        (CHAT, "m", "batch.jsonl:2"),
        (CHAT, "m", "batch.jsonl:4"),
        (EMBEDDINGS, "o", "batch.jsonl:5"),
    ]
    assert (n_requests, n_refused) == (5, 0)


def test_bad_lines_are_refused_with_their_place_and_the_rest_goes_on(
    tmp_path: Path, opened: Callable[..., BatchFile]
) -> None:
    good = json.loads(line("good"))
    bad = [
        ({**good, "custom_id": 5}, '"custom_id" must be a text'),
        ({**good, "custom_id": ""}, '"custom_id" is empty'),
        ({name: value for name, value in good.items() if name != "custom_id"}, '"custom_id" is missing'),
        ({**good, "method": "GET"}, '"method" must be POST'),
        ({**good, "url": "/v1/moderations"}, f'"url" must be {CHAT}, {RESPONSES}, {COMPLETIONS} or'),
        ({**good, "body": []}, '"body" must be an object'),
        ({**good, "body": {"input": "a", "model": 5}}, '"model" must be a text'),
        ({**good, "extra": 1}, '"extra" is unknown; a line has'),
    ]
    lines = [
        f"{json.dumps(fields | ({'custom_id': f'{n}'} if n > 3 else {}))}\n" for n, (fields, _) in enumerate(bad, 1)
    ]
    file = opened(write_file(tmp_path, *lines, "\n", '{"id": "x", not json\n', line("good")))
    *refused, broken, accepted = file.requests()
    for number, (rejection, (_, says)) in enumerate(zip(refused, bad, strict=True), 1):
        assert isinstance(rejection, Rejection)
        assert (rejection.where, rejection.keys) == (f"batch.jsonl:{number}", (str(number),) if number > 3 else ())
        assert says in rejection.reason
    assert isinstance(broken, Rejection)
    assert (broken.where, broken.keys) == ("batch.jsonl:10", ())
    assert isinstance(accepted, BatchRequest)
    assert (accepted.custom_id, accepted.line) == ("good", 11)


def test_what_no_database_stores_is_replaced_in_ids_as_in_texts(
    tmp_path: Path, opened: Callable[..., BatchFile]
) -> None:
    [request] = opened(write_file(tmp_path, line("a\0", input="x\0y"))).requests()
    assert isinstance(request, BatchRequest)
    assert (request.custom_id, request.texts) == ("a\ufffd", ("x\ufffdy",))
    assert len(request.flags) == 1


def test_an_id_that_stands_twice_names_both_lines(tmp_path: Path, opened: Callable[..., BatchFile]) -> None:
    for lines in ([line("a"), line("b"), line("a")], [line("x", input=["a", "b"]), line("a"), line("x#1")]):
        with pytest.raises(WorkerError, match=r'batch\.jsonl:3: the custom_id "(a|x#1)" is on line 1 already'):
            survey(opened(write_file(tmp_path, *lines)))


def test_ids_whose_hashes_are_equal_are_compared(
    tmp_path: Path, opened: Callable[..., BatchFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docmill.features.batch_server.file.hash", lambda _: 1, raising=False)
    assert survey(opened(write_file(tmp_path, line("a"), line("b"), "broken\n")))[1:] == (2, 1)
    with pytest.raises(WorkerError, match=r'batch\.jsonl:3: the custom_id "b" is on line 2 already'):
        survey(opened(write_file(tmp_path, line("a"), line("b"), line("b"))))


def test_files_that_are_no_batch_say_so(tmp_path: Path, opened: Callable[..., BatchFile]) -> None:
    with pytest.raises(WorkerError, match=r"empty\.jsonl has no requests"):
        survey(opened(write_file(tmp_path, "\n", name="empty.jsonl")))
    with pytest.raises(WorkerError, match="sqlite:// is not a file"):
        opened("sqlite:///a.db?SELECT 1")
    with pytest.raises(WorkerError, match="is a folder"):
        opened(str(tmp_path))
    with pytest.raises(WorkerError, match=r"batch\.tgz is an archive"):
        opened(write_file(tmp_path, name="batch.tgz"))
    lines = [line(str(n), COMPLETIONS, max_tokens=n) for n in range(1, MOST_CALLS + 2)]
    with pytest.raises(WorkerError, match=f":{MOST_CALLS + 1}: .* more than {MOST_CALLS} different sets"):
        survey(opened(write_file(tmp_path, *lines)))


def test_a_compressed_file_and_standard_input_are_read_again_and_again(
    tmp_path: Path, opened: Callable[..., BatchFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = line("a") + line("b")
    (tmp_path / "batch.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    piped = opened("-")
    for file in (opened(str(tmp_path / "batch.jsonl.gz")), piped):
        for _ in range(2):
            assert [request.keys for request in file.requests()] == [("a",), ("b",)]
    assert piped.digest == opened(write_file(tmp_path, lines)).digest
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-12])
    *_, last = opened(str(tmp_path / "cut.jsonl.gz")).requests()
    assert isinstance(last, Rejection)
    assert "gzip" in last.reason


def test_the_documents_of_a_call_carry_their_requests_and_the_first_has_the_refused_lines(
    tmp_path: Path, opened: Callable[..., BatchFile]
) -> None:
    lines = [line("a", input=["x", "y"], encoding_format="base64"), "broken\n", line("c", CHAT), line("z" * 2001)]
    file = opened(write_file(tmp_path, *lines))
    first, second = survey(file)[0]
    records = [*CallSource(file, first, "real", refused=True, unfit={second: "no chat"}).records()]
    request = {"custom_id": "a", "url": EMBEDDINGS, "model": "m", "line": 1, "encoding_format": "base64", "of": 2}
    for place, record in enumerate(records[:2]):
        assert isinstance(record, Record)
        assert (record.key, record.text) == (f"a#{place}", "xy"[place])
        assert record.meta == {REQUEST: {**request, "index": place}}
    assert [(rejected.where, rejected.reason) for rejected in records[2:4] if isinstance(rejected, Rejection)] == [
        ("batch.jsonl:2", "not JSON: Expecting value at column 1"),
        ("batch.jsonl:3", "no chat"),
    ]
    assert isinstance(records[4], Rejection)
    assert records[4].reason == '"custom_id" has 2,001 bytes; at most 1,980 are stored'
    [chat] = CallSource(file, second, "real", refused=False, unfit={}).records()
    assert isinstance(chat, Record)
    assert chat.key == "c"
