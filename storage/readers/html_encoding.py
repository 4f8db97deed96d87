"""Decode an HTML file by its declared encoding (HTML Living Standard, 13.2.3.2)."""

from __future__ import annotations

import re

from storage.core.normalize import bom_length, decode, is_utf16
from storage.readers.recoding import python_name

_PRESCANNED = 1024
_META = re.compile(rb"<meta\b[^>]*\bcharset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
# The standard's meaning of these labels. A page whose label can be read as ASCII is in none of UTF-16 and UTF-32.
_MEANT = {"iso8859-1": "cp1252", "ascii": "cp1252"} | dict.fromkeys(
    ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"), "utf-8"
)


def page(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """Return the file as text. Bytes outside its encoding are replaced, and the first one is flagged."""
    if is_utf16(raw):
        try:
            return raw.decode("utf-16"), ()
        except UnicodeDecodeError as error:
            return raw.decode("utf-16", errors="replace"), (f"invalid_utf16@{error.start}",)
    skip = bom_length(raw)
    said = None if skip else _META.search(raw[:_PRESCANNED])
    if said is not None and (encoding := _encoding(said.group(1).decode())) != "utf-8":
        try:
            return raw.decode(encoding), ()
        except UnicodeDecodeError as error:
            return raw.decode(encoding, errors="replace"), (f"invalid_{encoding}@{error.start}",)
    return decode(raw[skip:], skip)


def _encoding(label: str) -> str:
    """Return Python's name for an encoding; UTF-8 for an unknown one, and for one that is not of text."""
    name = python_name(label) or "utf-8"
    return _MEANT.get(name, name)
