"""Kinds of documents that are not text as they lie there, by the suffix of a file's name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType

EXTRA = "formats"
_OFFICE = "application/vnd.openxmlformats-officedocument"
HTML = "text/html"
MAIL = "message/rfc822"
# What is read by the extra's library, in a process of its own (`storage.readers.extractor`).
KINDS: Mapping[str, str] = MappingProxyType(
    {
        ".html": HTML,
        ".htm": HTML,
        ".pdf": "application/pdf",
        ".docx": f"{_OFFICE}.wordprocessingml.document",
        ".pptx": f"{_OFFICE}.presentationml.presentation",
        ".odt": "application/vnd.oasis.opendocument.text",
        ".rtf": "application/rtf",
        ".epub": "application/epub+zip",
        ".eml": MAIL,
    }
)
# Mailboxes hold what `.eml` files are.
MAILBOXES = (".mbox", ".mbox.gz")


def readable() -> bool:
    """Whether the library is there."""
    return find_spec("kreuzberg") is not None
