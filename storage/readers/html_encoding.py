"""The characters of an HTML file, in the encoding that it says (HTML Living Standard, 13.2.3.2)."""

from __future__ import annotations

import codecs
import re

from storage.core.normalize import bom_length, decode, is_utf16

_PRESCANNED = 1024
_META = re.compile(rb"<meta\b[^>]*\bcharset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
# What pages that say so mean, by the standard.
_MEANT = {"iso8859-1": "cp1252", "ascii": "cp1252", "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8"}


def page(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """The file as text. What its encoding does not have is replaced, and the first such byte's place flagged."""
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
    """Python's name for an encoding; UTF-8 for one that nobody knows, and for what is none of characters."""
    try:
        found = codecs.lookup(label)
    except LookupError:
        return "utf-8"
    return _MEANT.get(found.name, found.name) if found._is_text_encoding else "utf-8"
