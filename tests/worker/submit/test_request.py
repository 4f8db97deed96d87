"""Tests of stored requests, and of the arguments that a repeated idempotency key must match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docmill.storage.readers import SourceUnsupported
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.options import parsed
from docmill.worker.errors import BadMessage
from docmill.worker.orders import parse_enqueue
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import key_of, source_options


def test_an_encoding_is_checked_and_remembered_only_where_one_is_named() -> None:
    assert source_options(Request(source="a.csv", task="embed", encoding="Latin1"), []).encoding == "iso8859-1"
    assert source_options(Request(source="a.csv", task="embed"), []).encoding is None
    with pytest.raises(SourceUnsupported, match='no encoding is named "utf-9"; give --encoding cp1252'):
        source_options(parse_enqueue({"source": "a.csv", "task": "embed", "encoding": "utf-9"}), [])
    # An unfinished job is still found by the options that earlier releases noted.
    assert Request(source="a.csv", task="embed").remembered == {"text_field": "text", "id_field": "id", "limit": None}
    assert Request(source="a.csv", task="embed", encoding="cp1252").remembered["encoding"] == "cp1252"


def test_the_row_of_the_header_is_remembered_and_part_of_an_order_only_where_it_is_given() -> None:
    plain: dict[str, Any] = {"source": "a.xlsx", "task": "embed"}
    request = parse_enqueue({**plain, "header_row": 3})
    assert source_options(request, []).header_row == 3
    assert request.remembered == {"text_field": "text", "id_field": "id", "limit": None, "header_row": 3}
    assert "header_row" not in parse_enqueue(plain).remembered
    keyed = key_of(Request(**plain, idempotency_key="k", header_row=3))
    earlier = key_of(Request(**plain, idempotency_key="k"))
    assert keyed is not None
    assert earlier is not None
    assert keyed.arguments.keys() - earlier.arguments.keys() == {"--header-row"}
    with pytest.raises(BadMessage, match="header_row"):
        parse_enqueue({**plain, "header_row": 0})


def arguments(options: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    values = {"source": "a.jsonl", "task": "classify", "idempotency_key": "k", **fields}
    key = key_of(parsed(Request, {"options": kinds.options(values["task"], **(options or {})), **values}))
    assert key is not None
    assert key.key == "k"
    return dict(key.arguments)


def test_only_explicit_arguments_are_kept_by_their_command_line_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = {"the source": str(tmp_path / "a.jsonl"), "the task": "classify"}
    assert arguments() == plain
    assert arguments({"top_k": 3, "dtype": "int8"}, max_failures=2.5, prune=True, when=None) == plain | {
        "--top-k": 3,
        "--dtype": "int8",
        "--max-failures": 2.5,
        "--prune": True,
    }


def test_the_same_source_has_one_name_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in ("a.jsonl", str(tmp_path / "a.jsonl"), f"file://{tmp_path}/a.jsonl"):
        assert arguments(source=source)["the source"] == str(tmp_path / "a.jsonl")
    assert arguments(source="https://x.org/a.jsonl?token=geheim")["the source"] == "https://x.org/a.jsonl?***"
    assert arguments(source="-")["the source"] == "-"


def test_an_argument_is_kept_as_the_store_can_hold_it() -> None:
    stored = arguments({"prompt": "a\0b \ud800: {text}", "stop": ["\0"]}, task="generate", model="null")
    assert stored["--prompt"] == "a\ufffdb \ufffd: {text}"
    assert stored["--stop"] == ["\ufffd"]


@pytest.mark.parametrize("key", ["", "a\nb", "x" * 256])
def test_a_key_is_short_and_can_be_shown(key: str) -> None:
    with pytest.raises(BadOption, match="--idempotency-key must be at most 255 printable characters, and not empty"):
        arguments(idempotency_key=key)
