"""Files of JSON lines."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest

from docmill.storage.readers import FieldUnknown, Record, Rejection, SourceOptions, open_source
from docmill.storage.readers.files import StreamSource
from tests.storage.readers.reading import OPTIONS, list_keys


def read(raw: bytes, options: SourceOptions = OPTIONS) -> list[Record | Rejection]:
    """Read JSON lines from standard input."""
    return list(StreamSource(BytesIO(raw), options).records())


def record(raw: bytes, options: SourceOptions = OPTIONS) -> Record:
    """Return the only record."""
    (item,) = read(raw, options)
    assert isinstance(item, Record), item
    return item


def reason(raw: bytes, options: SourceOptions = OPTIONS) -> str:
    """Return the reason for which the only record is rejected."""
    (item,) = read(raw, options)
    assert isinstance(item, Rejection), item
    assert not item.fatal
    return item.reason


def test_a_record_has_its_id_its_text_and_everything_else_as_metadata(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a", "text": "Hello", "lang": "en", "tags": ["x", {"y": null}], "n": 1.5}\n')
    source = open_source(str(path), OPTIONS)
    assert source.name == str(path)
    assert list(source.records()) == [
        Record("a", "Hello", {"lang": "en", "tags": ["x", {"y": None}], "n": 1.5}, (), "corpus.jsonl:1")
    ]
    assert source.bytes_read == source.size_bytes() == path.stat().st_size


def test_only_strings_and_numbers_as_json_writes_them_are_ids() -> None:
    assert record(b'{"id": 7, "text": ""}').key == "7"
    assert record(b'{"id": 18446744073709551615, "text": ""}').key == "18446744073709551615"
    assert record(b'{"id": 5.0, "text": ""}').key == "5.0"
    assert record(b'{"id": -1.50, "text": "\\ud800"}').key == "-1.5"
    for value in (b"true", b"[1]", b"{}"):
        assert '"id" is' in reason(b'{"id": ' + value + b', "text": "x"}')
    for number in (b"123456789012345678901234567890", b"9007199254740993.0", b"-1e300"):
        assert "too large" in reason(b'{"id": ' + number + b', "text": ""}')


def test_an_id_too_long_for_an_index_is_rejected() -> None:
    assert record(json.dumps({"id": "k" * 2000, "text": ""}).encode()).key == "k" * 2000
    assert "2,004 bytes" in reason(json.dumps({"id": "é" * 1002, "text": ""}).encode())


def test_a_text_that_is_missing_or_no_string_is_rejected_with_the_reason() -> None:
    first = b'{"text": "good"}\n'
    items = read(first + b'{"id": 1, "body": "secret"}\n{"text": null}\n{"text": 3}\n{"text": ["secret"]}\n')
    assert items[1:] == [
        Rejection("-:2", 'no field "text"; the record has "id", "body"'),
        Rejection("-:3", '"text" is null, not a string'),
        Rejection("-:4", '"text" is a whole number, not a string'),
        Rejection("-:5", '"text" is an array, not a string'),
    ]


def test_bad_json_is_rejected_with_its_line_and_column_and_the_rest_is_read() -> None:
    items = read(b'{"text": "a"}\n{"text": "b",}\n\n{"text": \nnot json\n[1]\n"x"\n{"text": "c"}\n')
    assert [item.where for item in items] == ["-:1", "-:2", "-:4", "-:5", "-:6", "-:7", "-:8"]
    reasons = [item.reason for item in items if isinstance(item, Rejection)]
    assert all(text.startswith("not JSON: ") and " at column " in text for text in reasons[:3])
    assert reasons[3:] == ["an array where an object is expected", "a single value where an object is expected"]
    assert list_keys(items) == ["-:1", "-:8"], "no rejected record has the same place"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_that_no_database_stores_are_rejected(number: str) -> None:
    expected = "too large" if number == "1e400" else f"{number} is no JSON value"
    assert expected in reason(f'{{"text": "a", "n": {number}}}'.encode())


def test_a_number_reads_the_same_beside_a_lone_surrogate_as_without_one() -> None:
    plain = record(b'{"text": "a", "n": 123456789012345678901234567890, "m": 7}')
    mended = record(b'{"text": "\\ud800", "n": 123456789012345678901234567890, "m": 7}')
    assert mended.meta == plain.meta


@pytest.mark.parametrize("depth", [200, 1_500, 200_000])
def test_very_deep_nesting_is_rejected(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    assert "levels deep" in reason(b'{"text": "a", "meta": ' + nested + b"}")


def test_lone_surrogates_and_nul_are_replaced_in_text_id_and_metadata_and_flagged() -> None:
    mended = record(b'{"id": "k\\u0000", "text": "a\\ud800b\\u0000", "meta": {"\\udfff": ["\\u0000"]}}')
    assert mended.key == "k\ufffd"
    assert mended.text == "a\ufffdb\ufffd"
    assert mended.meta == {"meta": {"\ufffd": ["\ufffd"]}}
    assert mended.flags == ("nul_replaced", "surrogate_replaced")


def test_invalid_utf8_is_replaced_and_flagged_with_its_offset_in_the_file() -> None:
    first = b'\xef\xbb\xbf{"text": "caf\xc3\xa9"}\n'
    items = read(first + b'{"text": "caf\xff"}\n')
    assert items[0] == Record("-:1", "café", {}, (), "-:1")
    assert items[1] == Record("-:2", "caf\ufffd", {}, (f"invalid_utf8@{len(first) + 13}",), "-:2")
    assert read(b" " * 600_000 + b"{}\n" + b'{"text": "\xff"}', SourceOptions(max_record_bytes=30)) == [
        Rejection("-:1", "longer than 30 bytes, the limit for one document"),
        Record("-:2", "\ufffd", {}, (f"invalid_utf8@{600_003 + 10}",), "-:2"),
    ]


def test_a_wrong_id_field_is_an_error_if_it_was_named() -> None:
    with pytest.raises(FieldUnknown, match="--id-field"):
        read(b'{"text": "x", "key": "a"}\n', SourceOptions(id_field="name"))
    assert record(b'{"text": "x", "key": "a"}\n', SourceOptions(id_field="key")).key == "a"


def test_if_one_of_the_first_hundred_records_has_the_field_the_others_are_rejected() -> None:
    lines = b"not json\n" + b'{"body": "x"}\n' * 97 + b'{"title": "z"}\n{"text": "y"}\n'
    items = read(lines)
    assert sum(isinstance(item, Rejection) for item in items) == 99
    with pytest.raises(FieldUnknown, match=r'"text"; it has "body", "title": .*--text-field'):
        read(b'{"body": "x"}\n' + lines)
