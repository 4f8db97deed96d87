"""Text that a database cannot store is replaced, and the change is flagged."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.core.normalize import NUL_REPLACED, SURROGATE_REPLACED, decode, normalize, normalize_json

ANY_TEXT = st.text(st.characters(codec=None), max_size=60)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in strings(part)]
    return []


def storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def test_nul_and_lone_surrogates_are_replaced_and_each_is_named() -> None:
    assert normalize("a\0b") == ("a\ufffdb", (NUL_REPLACED,))
    assert normalize("a\ud800b") == ("a\ufffdb", (SURROGATE_REPLACED,))
    assert normalize("\0\udfff") == ("\ufffd\ufffd", (NUL_REPLACED, SURROGATE_REPLACED))


@given(ANY_TEXT)
def test_what_is_normalised_can_be_stored_keeps_its_length_and_is_normalised_once(text: str) -> None:
    normalized, flags = normalize(text)
    assert storable(normalized)
    assert len(normalized) == len(text)
    assert all(old == new or not storable(old) for old, new in zip(text, normalized, strict=True))
    assert bool(flags) == (not storable(text))
    assert normalize(normalized) == (normalized, ())


@given(ANY_JSON)
def test_every_string_and_key_of_a_json_value_is_normalised(value: Any) -> None:
    normalized, flags = normalize_json(value)
    assert all(map(storable, strings(normalized)))
    assert bool(flags) == (not all(map(storable, strings(value))))
    if not flags:
        assert normalized == value


def test_invalid_utf8_is_replaced_and_flagged_with_the_offset_of_its_first_byte() -> None:
    assert decode(b"caf\xe9 \xff", 100) == ("caf\ufffd \ufffd", ("invalid_utf8@103",))
    assert decode("café".encode()) == ("café", ())


@given(st.binary(max_size=80))
def test_bytes_that_are_utf8_are_kept_and_others_are_flagged(raw: bytes) -> None:
    text, flags = decode(raw)
    assert flags != () or text.encode() == raw
    assert (
        flags == () or "\ufffd" in text or (flags[0].startswith("assumed_cp1252@") and text.encode("cp1252") == raw)
    )
