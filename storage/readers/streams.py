"""Bytes of a regular file, plain or decompressed, in bounded memory for any content.

Only regular files are opened: opening a pipe would wait for a writer, and opening a device can have side effects.
"""

from __future__ import annotations

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
from docmill.storage.readers.errors import BrokenStream, SourceMissing, SourceUnreadable, TooExpanded

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


def kind(mode: int) -> str:
    """Return the type of a file by its mode: "a file", "a pipe", "a device" and so on."""
    return next((name for test, name in _KINDS if test(mode)), "a file")


def open_regular(path: Path, *, follow: bool = True) -> FileIO:
    """Open a file for reading without waiting. Raises SourceMissing and SourceUnreadable."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        mode = path.stat(follow_symlinks=follow).st_mode
        if not stat.S_ISREG(mode):
            hint = "; pass it on standard input, as -" if stat.S_ISFIFO(mode) else ""
            raise SourceUnreadable(f"{printable(path)} is {kind(mode)}, not a file{hint}")
        opened = FileIO(os.open(path, flags))
    except (FileNotFoundError, ValueError) as error:  # no name has a NUL, which is a ValueError
        raise SourceMissing(f"{printable(path)}: no such file or folder") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SourceMissing(f"{printable(path)[:_SHOWN]}…: no such file or folder") from error
        raise SourceUnreadable(f"{printable(path)}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):  # replaced between lstat and open
        opened.close()
        raise SourceUnreadable(f"{printable(path)} is not a file any more")
    return opened


def is_folder(path: Path) -> bool:
    """Return True for a folder or a link to one, and False if the path cannot be examined."""
    try:
        return path.is_dir()
    except OSError:
        return False


def printable(path: str | os.PathLike[str]) -> str:
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
    """The bytes and lines (or rows) that came of compressed data, and their limits. `advice` is what to do else."""

    def __init__(self, advice: str = "decompress it first") -> None:
        self._advice = advice
        self._bytes = self._lines = 0

    def add(self, n_compressed: int, n_bytes: int, n_lines: int) -> None:
        """Count more bytes and lines, of `n_compressed` bytes so far. Raises TooExpanded for too many."""
        self._bytes += n_bytes
        self._lines += n_lines
        for name, n, ratio, free in (
            ("bytes", self._bytes, _MOST_RATIO, _FREE_BYTES),
            ("lines", self._lines, _MOST_LINES_A_BYTE, _FREE_LINES),
        ):
            if n > free + ratio * n_compressed:
                raise TooExpanded(
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
    return BufferedReader(file if decompress is None else Pieces(_decompressed(file, decompress)), BUFFER_BYTES)


def _decompressed(file: Counted, decompress: Decompress) -> Iterator[bytes]:
    expansion = Expansion()
    for piece in decompress(file):
        expansion.add(file.bytes_read, len(piece), piece.count(b"\n"))
        yield piece


def lines(stream: BinaryIO, limit: int) -> Iterator[bytes | None]:
    """Yield the stream's lines with their line ends; None for a line longer than `limit` bytes, which is skipped."""
    readline = stream.readline
    while line := readline(limit + 1):
        if len(line) <= limit:
            yield line
            continue
        del line
        while (part := readline(BUFFER_BYTES)) and not part.endswith(b"\n"):
            pass
        yield None


def text_lines(stream: BinaryIO, limit: int) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """Yield the stream's lines as text with their line ends, without the byte order mark, and the flags of each.

    A flag names the first byte of a line that is not UTF-8. Like `lines`, None stands for a line that is too long.
    """
    offset = 0
    for number, raw in enumerate(lines(stream, limit)):
        if raw is None:
            yield None, ()
            continue
        skipped = 0 if number else bom_length(raw)
        yield decode(raw[skipped:], offset + skipped)
        offset += len(raw)
