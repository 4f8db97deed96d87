"""Records as the columns of a chunk."""

from __future__ import annotations

import hashlib

import orjson

from docmill.storage.ingest.chunks import StoredVersion
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
    stored = StoredVersion(1, "a", 7, {"tags": ["x", "ä"], "year": 1900}, ["nul_replaced"], 4, False, 1)
    assert versions.equals(0, stored)
    assert not versions.equals(1, stored)
    for other in (stored._replace(content_id=8), stored._replace(meta={}), stored._replace(flags=[])):
        assert not versions.equals(0, other)
    assert versions.at([1]).keys == ["b"]
    assert versions.at([1]).content_ids == [8]
