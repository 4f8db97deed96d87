"""Convert texts in other encodings to UTF-8, by their byte order mark or the option --encoding."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from io import BufferedReader
from typing import BinaryIO

from storage.core.normalize import bom_length, decode
from storage.readers.errors import EncodingUnnamed, SourceUnsupported
from storage.readers.records import RowReader, Rows, SourceOptions
from storage.readers.streams import BUFFER_BYTES, Pieces

_BLOCK_BYTES = 64 * 1024
_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_MARK_BYTES = 4
_UTF8 = "utf-8"
_WITHOUT_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}  # as on the web (Encoding Standard)
_PATTERNS: dict[tuple[bool, ...], str] = {  # of bytes that are not NUL
    (True, False, True, False): "utf-16-le",
    (False, True, False, True): "utf-16-be",
    (True, False, False, False): "utf-32-le",
    (False, False, False, True): "utf-32-be",
}
# Python's codecs that are not encodings of text, and `undefined`, which always fails.
_NOTATIONS = frozenset(("idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined"))
_MISFIT = "docmill.misfit"


def _as_invalid_utf8(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


# A byte outside the encoding becomes a byte that UTF-8 does not have; readers replace and flag it.
codecs.register_error(_MISFIT, _as_invalid_utf8)


def known(encoding: str) -> str:
    """Return Python's name for an encoding of texts. Raises SourceUnsupported for an unknown one."""
    name = python_name(encoding)
    if name is None:
        raise SourceUnsupported(
            f'no encoding is named "{encoding}"; give --encoding cp1252, latin-1, utf-16, shift_jis or another of '
            "https://docs.python.org/3/library/codecs.html#standard-encodings"
        )
    return name


def python_name(encoding: str) -> str | None:
    """Return Python's name for an encoding of texts; None for an unknown one."""
    try:
        found = codecs.lookup(encoding)
    except (LookupError, ValueError):
        return None
    return found.name if found._is_text_encoding and found.name not in _NOTATIONS else None


def of_text(read_rows: RowReader) -> RowReader:
    """Return the reader of a text format for files in any encoding."""

    def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
        head = stream.peek(_MARK_BYTES) if isinstance(stream, BufferedReader) else b""
        encoding = _of(head, options.encoding)
        if options.encoding is None and (likely := _unmarked(head)) is not None:
            raise EncodingUnnamed(name, likely)
        if encoding != _UTF8:
            stream = BufferedReader(Pieces(_recoded(stream, encoding)), BUFFER_BYTES)
        yield from read_rows(stream, name, options)

    return rows


def decoded(raw: bytes, encoding: str | None) -> tuple[str, tuple[str, ...]]:
    """Return a whole file as text, with a flag for the first byte that is not in the encoding."""
    found = _of(raw[:_MARK_BYTES], encoding)
    if found != _UTF8:
        raw = raw.decode(found, _MISFIT).encode(_UTF8, "surrogateescape")
    skip = bom_length(raw)
    return decode(raw[skip:], skip)


def _of(head: bytes, encoding: str | None) -> str:
    """Return the encoding of a file: by its byte order mark, else the given one, else UTF-8."""
    given = encoding or _UTF8
    return next((found for mark, found in _MARKS if head.startswith(mark)), _WITHOUT_MARK.get(given, given))


def _unmarked(head: bytes) -> str | None:
    """Return the encoding of records that begin with an ASCII character and NULs around it; None for others."""
    return _PATTERNS.get(tuple(byte != 0 for byte in head[:_MARK_BYTES]))


def _recoded(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield a text as UTF-8."""
    read = getattr(stream, "read1", stream.read)  # read1 returns what a pipe has, without waiting for more
    decoder = codecs.getincrementaldecoder(encoding)(_MISFIT)
    while raw := read(_BLOCK_BYTES):
        yield decoder.decode(raw).encode(_UTF8, "surrogateescape")
    yield decoder.decode(b"", final=True).encode(_UTF8, "surrogateescape")
