"""A source is read into the store in chunks. The first is small, so that a device can begin."""

from __future__ import annotations

from typing import Any

import pytest

from docmill.storage.readers import SourceUnsupported
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
