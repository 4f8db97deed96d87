"""A source is read into the store in chunks. The first is small, so that a device can begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.ingest.chunks import CHUNK_RECORDS, FIRST_CHUNK_RECORDS, chunks
from docmill.storage.readers import SourceOptions, SourceUnsupported, open_source
from docmill.worker.errors import BadMessage
from docmill.worker.orders import parse_enqueue
from docmill.worker.submit.options import Request
from docmill.worker.submit.request import key_of, source_options


def test_the_first_chunk_is_small_and_the_others_are_large(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    rows = FIRST_CHUNK_RECORDS + CHUNK_RECORDS + 7
    lines = [json.dumps({"id": number, "text": "x"}) if number else "[]" for number in range(rows)]
    path.write_text("\n".join(lines))
    found = list(chunks(open_source(str(path), SourceOptions())))
    sizes = [chunk.n_records + len(rejected) for chunk, rejected in found]
    assert sizes == [FIRST_CHUNK_RECORDS, CHUNK_RECORDS, 7]
    assert [seq for chunk, _ in found for seq in chunk.seqs] == list(range(1, rows))


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
    asked = parse_enqueue({**plain, "header_row": 3})
    assert source_options(asked, []).header_row == 3
    assert asked.remembered == {"text_field": "text", "id_field": "id", "limit": None, "header_row": 3}
    assert "header_row" not in parse_enqueue(plain).remembered
    keyed = key_of(Request(**plain, idempotency_key="k", header_row=3))
    earlier = key_of(Request(**plain, idempotency_key="k"))
    assert keyed is not None
    assert earlier is not None
    assert keyed.arguments.keys() - earlier.arguments.keys() == {"--header-row"}
    with pytest.raises(BadMessage, match="header_row"):
        parse_enqueue({**plain, "header_row": 0})


def test_a_sheet_and_the_languages_of_scanned_pages_come_from_messages_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "deu.traineddata").touch()
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))
    asked = parse_enqueue({"source": "a", "task": "embed", "sheet": "Open", "ocr": "deu"})
    options = source_options(asked, [])
    assert (options.sheet, options.ocr) == ("Open", "deu")
    assert asked.remembered == {"text_field": "text", "id_field": "id", "limit": None, "sheet": "Open", "ocr": "deu"}
    with pytest.raises(SourceUnsupported, match='no data of Tesseract for "eng" on this machine; there is deu'):
        source_options(parse_enqueue({"source": "a", "task": "embed", "ocr": "eng"}), [])
