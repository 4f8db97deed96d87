"""A file on an HTTP server that is read in parts: the end of a zip file, a column of Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import lru_cache
from io import FileIO, RawIOBase
from tempfile import TemporaryFile
from typing import Protocol

from docmill.storage.readers.errors import BrokenTransfer

BLOCK_BYTES = 2 * 2**20
COPIED_BYTES = 2**30
_BLOCKS = 32  # enough that the columns of a Parquet file do not evict each other


class NoParts(BrokenTransfer):
    """The server does not serve parts of a file."""


class TooLarge(Exception):
    """The file is larger than the limit for a copy."""


class Status(Protocol):
    """An answer of aiohttp."""

    status: int


class Answer(Protocol):
    """A server's answer as fsspec wraps it; `r` is aiohttp's."""

    r: Status

    def read(self, n: int) -> bytes: ...
    def close(self) -> None: ...


Ask = Callable[[dict[str, str]], Answer]


class Blocks(RawIOBase):
    """A file that is read block by block. `ask` sends a request with headers; no more than the block is read.

    Raises NoParts if the server sends the whole file instead, and BrokenTransfer if the connection breaks.
    """

    def __init__(self, ask: Ask, size: int) -> None:
        self._ask = ask
        self._size = size
        self._at = 0
        self._block = lru_cache(_BLOCKS)(self._fetched)
        if size:
            self._block((size - 1) // BLOCK_BYTES)  # readers of both formats start there

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_CUR: self._at, os.SEEK_END: self._size}.get(whence, 0)
        if at < 0:
            raise OSError("a place before the beginning")
        self._at = at
        return at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._at >= self._size:
            return 0
        number, start = divmod(self._at, BLOCK_BYTES)
        data = self._block(number)[start : start + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._block.cache_clear()
        super().close()

    def _fetched(self, number: int) -> bytes:
        first = number * BLOCK_BYTES
        last = min(first + BLOCK_BYTES, self._size) - 1
        with connected(), closing(self._ask({"Range": f"bytes={first}-{last}"})) as answer:
            if answer.r.status != 206 and (first, last) != (0, self._size - 1):
                raise NoParts("its server gives no parts of a file")
            return _read(answer, last + 1 - first)


def copied(ask: Ask, size: int | None) -> FileIO:
    """Return a copy of the whole file in a temporary file without a name, which is removed when it is closed.

    Raises TooLarge above COPIED_BYTES, and BrokenTransfer if the connection breaks.
    """
    if size is not None and size > COPIED_BYTES:
        raise TooLarge
    with ExitStack() as unless_copied:
        file: FileIO = unless_copied.enter_context(TemporaryFile(buffering=0))
        with connected(), closing(ask({})) as answer:
            while data := answer.read(BLOCK_BYTES):
                if file.tell() + len(data) > COPIED_BYTES:
                    raise TooLarge
                file.write(data)
        if size is not None and file.tell() != size:
            raise BrokenTransfer("the file ends before the size that its server said")
        file.seek(0)
        unless_copied.pop_all()
    return file


@contextmanager
def connected() -> Iterator[None]:
    """Raise BrokenTransfer for an error of a connection, since each file system has its own."""
    try:
        yield
    except (BrokenTransfer, TooLarge):
        raise
    except Exception as error:
        raise BrokenTransfer(f"the connection broke ({type(error).__name__})") from error


def _read(answer: Answer, n: int) -> bytes:
    pieces = []
    while n:
        data = answer.read(n)
        if not data:
            raise BrokenTransfer("the file ends before the size that its server said")
        pieces.append(data[:n])
        n -= len(pieces[-1])
    return b"".join(pieces)
