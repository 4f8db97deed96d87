"""Bytes of a regular file, plain or decompressed, in bounded memory for any content.

Only regular files are opened: opening a pipe would wait for a writer, and opening a device can have side effects.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from io import BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from storage.core.normalize import bom_length, decode
from storage.readers.errors import BrokenStream, SourceMissing, SourceUnreadable

BUFFER_BYTES = 256 * 1024
_INPUT_BYTES = 64 * 1024
# Half a kilobyte of zstd can become 17 MB (a 1 GB run of zeros takes 32 kB), so it is fed in small slices.
_ZSTD_SLICE_BYTES = 512
_ZSTD_WINDOW_BYTES = 128 * 2**20
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
    except FileNotFoundError as error:
        raise SourceMissing(f"{printable(path)}: no such file or folder") from error
    except OSError as error:
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


class Decompressor(Protocol):
    def pending(self) -> bool: ...
    def feed(self, raw: bytes) -> None: ...
    def read(self, limit: int) -> bytes: ...
    def finish(self) -> None: ...


class Gunzip:
    """A decompressor of gzip with any number of members, at most `limit` bytes at a time."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._input = b""
        self._begun = False

    def pending(self) -> bool:
        return bool(self._input)

    def feed(self, raw: bytes) -> None:
        self._input += raw

    def read(self, limit: int) -> bytes:
        if self._member.eof:
            self._input = self._input.lstrip(b"\0")  # tape blocks are padded with zeros
            if not self._input:
                return b""
            self._member = zlib.decompressobj(wbits=31)
        self._begun = True
        try:
            out = self._member.decompress(self._input, limit)
        except zlib.error as error:
            raise BrokenStream("the gzip data is damaged") from error
        self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return out

    def finish(self) -> None:
        if self._begun and not self._member.eof:
            raise BrokenStream("the gzip data ends before its end mark")


class Unzstd:
    """A decompressor of zstd with any number of frames and a window of at most 128 MiB."""

    def __init__(self) -> None:
        self._frame = self._new_frame()
        self._input = b""
        self._begun = False

    @staticmethod
    def _new_frame() -> zstandard.ZstdDecompressionObj:
        return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()

    def pending(self) -> bool:
        return bool(self._input)

    def feed(self, raw: bytes) -> None:
        self._input += raw

    def read(self, limit: int) -> bytes:
        del limit  # the size of a slice bounds what comes out
        if self._frame.eof:
            self._frame = self._new_frame()
        self._begun = True
        piece, self._input = self._input[:_ZSTD_SLICE_BYTES], self._input[_ZSTD_SLICE_BYTES:]
        try:
            out = self._frame.decompress(piece)
        except zstandard.ZstdError as error:
            raise BrokenStream("the zstd data is damaged, or asks for more than 128 MiB of memory") from error
        if self._frame.eof:
            self._input = self._frame.unused_data + self._input
        return out

    def finish(self) -> None:
        if self._begun and not self._frame.eof:
            raise BrokenStream("the zstd data ends before its end mark")


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


class Inflated(RawIOBase):
    """The decompressed bytes of a file. Raises BrokenStream if the compressed bytes break off."""

    def __init__(self, file: Counted, decompressor: Decompressor) -> None:
        self._file = file
        self._decompressor = decompressor
        self._out = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._out:
            if not self._decompressor.pending():
                raw = self._file.read(_INPUT_BYTES)
                if not raw:
                    self._decompressor.finish()
                    return 0
                self._decompressor.feed(raw)
            self._out = memoryview(self._decompressor.read(len(buffer)))
        n = min(len(buffer), len(self._out))
        buffer[:n] = self._out[:n]
        self._out = self._out[n:]
        return n


def buffered(file: Counted, decompressor: Decompressor | None = None) -> BufferedReader:
    """Return the file's content, decompressed if a decompressor is given."""
    return BufferedReader(file if decompressor is None else Inflated(file, decompressor), BUFFER_BYTES)


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
