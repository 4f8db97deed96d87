"""Bytes of a regular file, plain or decompressed, and as UTF-8, in bounded memory for any content.

Only regular files are opened: opening a pipe would wait for a writer, and opening a device can have side effects.
Texts in other encodings are converted, by their byte order mark or the option --encoding, and files that are no text
are refused, whatever their name says.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import BinaryIO, TypeAlias

import zstandard

from docmill.storage.core.normalize import bom_length, decode
from docmill.storage.readers.errors import (
    BrokenStream,
    EncodingUnnamed,
    SourceError,
    SourceMissing,
    SourceUnsupported,
)
from docmill.storage.readers.records import RowReader, Rows, SourceOptions

Decompress: TypeAlias = Callable[[RawIOBase], Iterator[bytes]]  # in pieces of bounded size
BUFFER_BYTES = 256 * 1024
_SHOWN = 80  # characters of a name that is too long to be a file's
_PIECE_BYTES = 64 * 1024
# Half a kilobyte of zstd can become 17 MB (a 1 GB run of zeros takes 32 kB), so it is fed in small slices.
_ZSTD_SLICE_BYTES = 512
_ZSTD_WINDOW_BYTES = 128 * 2**20
# Real texts shrink to about a hundredth at most. Lines are counted too, since each takes a microsecond or more.
_MOST_RATIO, _FREE_BYTES = 200, 64 * 2**20
_MOST_LINES_A_BYTE, _FREE_LINES = 2, 100_000
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
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


def kind(mode: int) -> str:
    """Return the type of a file by its mode: "a file", "a pipe", "a device" and so on."""
    return next((name for test, name in _KINDS if test(mode)), "a file")


def open_regular(path: Path, *, follow: bool = True) -> FileIO:
    """Open a file for reading without waiting. Raises SourceError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        mode = path.stat(follow_symlinks=follow).st_mode
        if not stat.S_ISREG(mode):
            hint = "; pass it on standard input, as -" if stat.S_ISFIFO(mode) else ""
            raise SourceError(f"{path_text(path)} is {kind(mode)}, not a file{hint}")
        opened = FileIO(os.open(path, flags))
    except (FileNotFoundError, ValueError) as error:  # no name has a NUL, which is a ValueError
        raise SourceMissing(f"{path_text(path)}: no such file or folder") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SourceMissing(f"{path_text(path)[:_SHOWN]}…: no such file or folder") from error
        raise SourceError(f"{path_text(path)}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):  # replaced between lstat and open
        opened.close()
        raise SourceError(f"{path_text(path)} is not a file any more")
    return opened


def is_folder(path: Path) -> bool:
    """Return True for a folder or a link to one, and False if the path cannot be examined."""
    try:
        return path.is_dir()
    except OSError:
        return False


def path_text(path: str | os.PathLike[str]) -> str:
    """Return the path as text for any database and terminal. Bytes that are not UTF-8 are written as `\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace").replace("\0", "\\0")


def gunzip(file: RawIOBase) -> Iterator[bytes]:
    """Yield the content of a gzip file with any number of members."""
    try:
        with gzip.GzipFile(fileobj=BufferedReader(file, _PIECE_BYTES)) as members:
            while piece := members.read1(_PIECE_BYTES):
                yield piece
    except EOFError as error:
        raise BrokenStream("the gzip data ends before its end mark") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BrokenStream("the gzip data is damaged") from error


def unzstd(file: RawIOBase) -> Iterator[bytes]:
    """Yield the content of a zstd file with any number of frames and windows of at most 128 MiB."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    frame: zstandard.ZstdDecompressionObj | None = None
    while raw := file.read(_PIECE_BYTES):
        while raw:
            if frame is None or frame.eof:
                frame = decompressor.decompressobj()
            try:
                yield frame.decompress(raw[:_ZSTD_SLICE_BYTES])
            except zstandard.ZstdError as error:
                raise BrokenStream("the zstd data is damaged, or asks for more than 128 MiB of memory") from error
            raw = frame.unused_data + raw[_ZSTD_SLICE_BYTES:]
    if frame is not None and not frame.eof:
        raise BrokenStream("the zstd data ends before its end mark")


class Expansion:
    """Counts of the bytes and lines (or rows) of decompressed data, with limits. `advice` is for their message."""

    def __init__(self, advice: str = "decompress it first") -> None:
        self._advice = advice
        self._bytes = self._lines = 0

    def add(self, n_compressed: int, n_bytes: int, n_lines: int) -> None:
        """Count more bytes and lines, of `n_compressed` bytes so far. Raises BrokenStream for too many."""
        self._bytes += n_bytes
        self._lines += n_lines
        for name, n, ratio, free in (
            ("bytes", self._bytes, _MOST_RATIO, _FREE_BYTES),
            ("lines", self._lines, _MOST_LINES_A_BYTE, _FREE_LINES),
        ):
            if n > free + ratio * n_compressed:
                raise BrokenStream(
                    f"its first {n_compressed:,} bytes expand to more than {free + ratio * n_compressed:,} {name}, "
                    f"far more than texts do (if it is no attack: {self._advice})"
                )


class Pieces(RawIOBase):
    """A stream of the bytes that an iterator yields, which raises what the iterator raises."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        n = min(len(buffer), len(self._left))
        buffer[:n] = self._left[:n]
        self._left = self._left[n:]
        return n


class Counted(RawIOBase):
    """A stream that counts the bytes read, for a progress bar. Closing it leaves the stream open."""

    def __init__(self, stream: FileIO | BinaryIO) -> None:
        self._stream = stream
        # read1 returns what a pipe has, and does not wait for a full buffer.
        self._read_into = getattr(stream, "readinto1", None) or stream.readinto  # type: ignore[union-attr]
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        n = self._read_into(buffer) or 0
        self.bytes_read += n
        return n

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def buffered(file: Counted, decompress: Decompress | None = None) -> BufferedReader:
    """Return the file's content, decompressed within the limits of `Expansion` if it is compressed."""
    return BufferedReader(file if decompress is None else Pieces(_limit_expansion(file, decompress)), BUFFER_BYTES)


def _limit_expansion(file: Counted, decompress: Decompress) -> Iterator[bytes]:
    expansion = Expansion()
    for piece in decompress(file):
        expansion.add(file.bytes_read, len(piece), piece.count(b"\n"))
        yield piece


def lines(stream: BinaryIO, limit: int) -> Iterator[bytes | int]:
    """Yield the stream's lines with their line ends. For a line longer than `limit` bytes, yield its length."""
    readline = stream.readline
    while line := readline(limit + 1):
        if len(line) <= limit:
            yield line
            continue
        length = len(line)
        while line and not line.endswith(b"\n"):  # the rest of it
            line = readline(BUFFER_BYTES)
            length += len(line)
        yield length


def text_lines(stream: BinaryIO, limit: int) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """Yield the stream's lines as text with their line ends, without the byte order mark, and the flags of each.

    A flag names the first byte of a line that is not UTF-8. None stands for a line longer than `limit` bytes.
    """
    offset = 0
    for number, raw in enumerate(lines(stream, limit)):
        if isinstance(raw, int):
            offset += raw
            yield None, ()
            continue
        skipped = 0 if number else bom_length(raw)
        yield decode(raw[skipped:], offset + skipped)
        offset += len(raw)


def grouped_lines(
    stream: BinaryIO, limit: int, begins: Callable[[bytes], bool]
) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield each record of several lines: the number and the offset of its first line, and all of its bytes.

    A record begins with a line for which `begins` returns True. Lines before the first record are skipped. None
    stands for a record longer than `limit` bytes.
    """
    first = start = offset = 0
    record: bytearray | None = None
    for number, line in enumerate(lines(stream, limit), 1):
        raw, length = (b"", line) if isinstance(line, int) else (line, len(line))
        text = raw[bom_length(raw) :] if number == 1 else raw
        if begins(text):
            if first:
                yield first, start, None if record is None else bytes(record)
            first, start, record = number, offset + len(raw) - len(text), bytearray()
        if record is not None:
            record += text
            record = None if isinstance(line, int) or len(record) > limit else record
        offset += length
    if first:
        yield first, start, None if record is None else bytes(record)


def text_records(
    stream: BinaryIO, limit: int, begins: Callable[[bytes], bool]
) -> Iterator[tuple[int, str | None, tuple[str, ...]]]:
    """Yield each record of `grouped_lines` as text, with the number of its first line and its flags."""
    for number, offset, raw in grouped_lines(stream, limit, begins):
        yield (number, None, ()) if raw is None else (number, *decode(raw, offset))


def _as_invalid_utf8(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError):
        return b"\xff" * (error.end - error.start), error.end
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


# A byte outside the encoding, or half a character, becomes a byte that UTF-8 does not have. Readers flag it.
codecs.register_error(_MISFIT, _as_invalid_utf8)


def find_encoding(encoding: str) -> str:
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
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):
        return None
    return codec.name if codec._is_text_encoding and codec.name not in _NOTATIONS else None


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
            raise SourceError(f"{name} is no text: {reason}")
        encoding = _choose_encoding(head, options.encoding)
        if options.encoding is None and (likely := _unmarked(head)) is not None:
            raise EncodingUnnamed(name, likely)
        if encoding != _UTF8:
            stream = BufferedReader(Pieces(_recode(stream, encoding)), BUFFER_BYTES)
        yield from read_rows(stream, name, options)

    return rows


def decode_file(raw: bytes, encoding: str | None) -> tuple[str, tuple[str, ...]]:
    """Return a whole file as text, with a flag for the first byte that is not in the encoding."""
    detected = _choose_encoding(raw[:_MARK_BYTES], encoding)
    if detected != _UTF8:
        raw = raw.decode(detected, _MISFIT).encode(_UTF8, _MISFIT)
    skip = bom_length(raw)
    return decode(raw[skip:], skip)


def _choose_encoding(head: bytes, encoding: str | None) -> str:
    """Return the encoding of a file: by its byte order mark, else the given one, else UTF-8."""
    fallback = encoding or _UTF8
    return next((marked for mark, marked in _MARKS if head.startswith(mark)), _WITHOUT_MARK.get(fallback, fallback))


def _unmarked(head: bytes) -> str | None:
    """Return the encoding of records that begin with an ASCII character and NULs around it; None for others."""
    return _PATTERNS.get(tuple(byte != 0 for byte in head[:_MARK_BYTES]))


def _recode(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield a text as UTF-8."""
    read = getattr(stream, "read1", stream.read)  # read1 returns what a pipe has, without waiting for more
    decoder = codecs.getincrementaldecoder(encoding)(_MISFIT)
    while raw := read(_BLOCK_BYTES):
        yield decoder.decode(raw).encode(_UTF8, _MISFIT)
    yield decoder.decode(b"", final=True).encode(_UTF8, _MISFIT)
