"""Convert texts in other encodings to UTF-8, by their byte order mark or the option --encoding, and refuse files
that are no text, whatever their name says.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from io import BufferedReader
from typing import BinaryIO

from docmill.storage.core.normalize import bom_length, decode
from docmill.storage.readers.errors import EncodingUnnamed, SourceUnreadable, SourceUnsupported
from docmill.storage.readers.records import RowReader, Rows, SourceOptions
from docmill.storage.readers.streams import BUFFER_BYTES, Pieces

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
_HEAD_BYTES = 64 * 1024
_GIF_HEAD_BYTES = 13
_LEAVE_OUT = "leave it out"
_UNPACK = "unpack it first"
_COMPRESSED = "decompress it, or add {0} to the name of a text, as in letter.txt{0}"
_SIGNATURES = (  # the first bytes of files that are no text, their kind, and what to do with such a file
    (b"%PDF-", "a PDF file", "end its name in .pdf"),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an Office file (.doc, .xls, .ppt, or a newer one with a password)",
        "give it its own suffix, and save it without the password",
    ),
    (b"\x1f\x8b\x08", "compressed by gzip", _COMPRESSED.format(".gz")),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", _COMPRESSED.format(".zst")),
    (b"\xfd7zXZ\0", "compressed by xz", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", _LEAVE_OUT),
    (b"\xff\xd8\xff", "a JPEG picture", _LEAVE_OUT),
    (b"GIF87a", "a GIF picture", _LEAVE_OUT),
    (b"GIF89a", "a GIF picture", _LEAVE_OUT),
    (b"II*\0", "a TIFF picture", _LEAVE_OUT),
    (b"MM\0*", "a TIFF picture", _LEAVE_OUT),
    (b"\x7fELF", "a program (ELF)", _LEAVE_OUT),
    (b"\xcf\xfa\xed\xfe", "a program (Mach-O)", _LEAVE_OUT),
    (b"MZ\x90\0", "a program of Windows", _LEAVE_OUT),
    (b"PAR1\x15", "a Parquet file", "end its name in .parquet"),
    (b"ARROW1\0\0", "an Arrow file", "end its name in .arrow"),
    (b"SQLite format 3\0", "a SQLite database", "read it by a query, as in sqlite:///FILE?SELECT ..."),
)
_ZIP = (b"PK\3\4", b"PK\5\6")
_IN_ZIP = (  # names of members and kinds, which stand uncompressed in such a file
    (b"word/", ".docx"),
    (b"xl/", ".xlsx"),
    (b"ppt/", ".pptx"),
    (b"application/epub+zip", ".epub"),
    (b"opendocument.text", ".odt"),
    (b"opendocument.spreadsheet", ".ods"),
)


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


def suffix_of_zip(raw: bytes) -> str | None:
    """Return the suffix of a zip file or of a kind of document that is one, by its bytes; None for other files."""
    return next((suffix for mark, suffix in _IN_ZIP if mark in raw), ".zip") if raw.startswith(_ZIP) else None


def why_no_text(raw: bytes) -> str | None:
    """Return the kind of a file that is no text, and what to do with it, by its bytes; None for a text."""
    if (suffix := suffix_of_zip(raw)) is not None:
        return f"it is a {suffix} file under another name: end its name in {suffix}"
    for mark, what, advice in _SIGNATURES:
        # A text may begin with a mark of letters and digits; in a file a NUL follows soon.
        if raw.startswith(mark) and (not mark.isalnum() or b"\0" in raw[:_GIF_HEAD_BYTES]):
            return f"it is {what} under another name: {advice}"
    return None


def of_text(read_rows: RowReader) -> RowReader:
    """Return the reader of a text format for files in any encoding."""

    def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
        head = stream.peek(_HEAD_BYTES) if isinstance(stream, BufferedReader) else b""
        if (reason := why_no_text(head)) is not None:
            raise SourceUnreadable(f"{name} is no text: {reason}")
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
