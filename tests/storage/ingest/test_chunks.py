"""Records as the columns of a chunk."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import orjson

from tests.storage.builders import Record, gathered

ONE: Record = ("a", "one", {"year": 1900, "tags": ("x", "ä")}, ("nul_replaced",), 4)
BARE: Record = ("b", "zwei €", {}, (), 5)


def test_a_records_text_is_hashed_and_its_metadata_and_flags_are_json() -> None:
    chunk = gathered(ONE, BARE)
    assert list(chunk.texts) == ["one", "zwei €"]
    assert list(chunk.hashes) == [hashlib.sha256(text.encode()).digest() for text in chunk.texts]
    assert [orjson.loads(meta) for meta in chunk.metas] == [{"year": 1900, "tags": ["x", "ä"]}, {}]
    assert [orjson.loads(flags) for flags in chunk.flags] == [["nul_replaced"], []]


def test_a_version_equals_a_stored_document_that_says_the_same() -> None:
    chunk = gathered(ONE, BARE)
    versions = chunk.versions({chunk.hashes[0]: 7, chunk.hashes[1]: 8})
    same = {"content_id": 7, "meta": {"tags": ["x", "ä"], "year": 1900}, "flags": ["nul_replaced"]}
    assert versions.equals(0, SimpleNamespace(**same))
    assert not versions.equals(1, SimpleNamespace(**same))
    for name, value in {"content_id": 8, "meta": {}, "flags": []}.items():
        assert not versions.equals(0, SimpleNamespace(**same | {name: value}))
    assert versions.at([1]).keys == ["b"]
    assert versions.at([1]).content_ids == [8]
