"""Files behind a URL: HTTP, object stores and other file systems of fsspec.

Bytes are streamed. Over HTTP a file is one answer, unless it is read in parts: the end of a zip file, a column of
Parquet. These, and the files of object stores, are read block by block, through fsspec's cache of blocks. A file is
copied to disk only if it must be read in parts and the server does not serve parts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from io import BufferedReader, FileIO, RawIOBase
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from docmill.storage.extras import REMOTE, install
from docmill.storage.readers import credentials
from docmill.storage.readers.errors import (
    BrokenTransfer,
    SourceError,
    SourceMissing,
    SourceUnreadable,
    SourceUnsupported,
)
from docmill.storage.readers.files import Content, Opened
from docmill.storage.readers.registry import read_in_parts
from docmill.storage.readers.streams import BUFFER_BYTES, printable

if TYPE_CHECKING:
    from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

HTTP = ("http", "https")
BLOCK_BYTES = 2 * 2**20
COPIED_BYTES = 2**30
_CACHED = 32  # blocks: enough that the columns of a Parquet file do not evict each other
# Else aiohttp decompresses answers without a limit.
_HEADERS = {"Accept-Encoding": "identity"}
_CONNECT_S = 30
_SILENT_S = 60
# Protocols of fsspec that read elsewhere, and whose URLs name the file itself. Others read this machine's files or
# repositories, or lead to other URLs. `file` is handled as a path before.
READ = frozenset(
    (
        *("http", "https", "ftp", "sftp", "ssh", "smb", "webdav", "webhdfs", "hdfs", "arrow_hdfs", "root"),
        *("s3", "s3a", "gs", "gcs", "abfs", "az", "adl", "oss", "oci", "ocilake", "tos", "tosfs", "lakefs", "hf"),
        *("box", "dropbox", "gdrive", "dbfs", "wandb", "github", "gist", "jupyter", "jlab", "dask", "memory"),
    )
)
_TALKATIVE = (
    *("fsspec", "aiohttp", "s3fs", "aiobotocore", "botocore"),
    *("gcsfs", "google.auth", "adlfs", "azure", "urllib3"),
)
# Reasons by the class of the libraries' errors, whose own messages contain the URL.
_WHY = {
    "ClientConnectorDNSError": "no host of that name is known",
    "ClientSSLError": "its server's certificate is not trusted, or it does not speak TLS",
    "ServerTimeoutError": "its server does not answer in time",
    "ServerDisconnectedError": "its server ends the connection without an answer",
    "ClientConnectorError": "nothing answers at its server's address",
    "EndpointConnectionError": "nothing answers at its server's address",
    "ConnectTimeoutError": "its server does not answer in time",
    "NoCredentialsError": "there are no credentials for it; give them as for the cloud's own tools (AWS_PROFILE, "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role)",
    "PermissionError": "its server denies access",
}


_TOO_SHORT = "the file ends before the size that its server said"


class _NoParts(BrokenTransfer):
    """The server does not serve parts of a file."""


class _TooLarge(Exception):
    """The file is larger than the limit for a copy."""


def content(url: str) -> Content:
    """Return the file at a URL, after asking for its size. `name` has none of the URL's secrets.

    Raises SourceMissing, SourceUnreadable and SourceUnsupported.
    """
    scheme = url.partition("://")[0].lower()
    name = credentials.shown(url)
    if scheme not in READ or "::" in url:
        raise SourceUnsupported(f"{name}: such a URL is not read; name the file itself")
    if scheme in HTTP:
        url = credentials.with_login(url, name)
    system, path = _file_system(url, scheme, name)
    file_name = printable(_file_name(url))
    try:
        size: int | None = system.info(path).get("size")
    except Exception as error:  # each file system has its own
        raise _refusal(error, name) from error
    block_bytes = 0 if scheme in HTTP else BLOCK_BYTES  # 0 for one answer, which is streamed

    def opened() -> BufferedReader:
        try:
            return BufferedReader(_Remote(_open(system, path, size, block_bytes), size), BUFFER_BYTES)
        except Exception as error:  # as above
            raise _refusal(error, name) from error

    if scheme in HTTP and read_in_parts(file_name):
        return Content(name, file_name, size, partial(_open_in_parts, system, path, size, name))
    return Content(name, file_name, size, opened)


def _open(system: AbstractFileSystem, path: str, size: int | None, block_bytes: int, **how: Any) -> Any:
    """Open a file of fsspec. It asks for the size of an HTTP file again unless it is told one."""
    if "http" in system.protocol:
        how["size"] = size or 1
    cache = {"cache_type": "blockcache", "cache_options": {"maxblocks": _CACHED}} if block_bytes else {}
    return system.open(path, "rb", block_size=block_bytes, **cache, **how)


def _open_in_parts(system: AbstractFileSystem, path: str, size: int | None, name: str) -> Opened:
    """Return an HTTP file that is read in parts, or its copy. Raises SourceUnreadable and SourceUnsupported."""

    def ask(**headers: str) -> Any:
        return _open(system, path, size, 0, headers=_HEADERS | headers)

    try:
        if size:
            with suppress(_NoParts):
                file = _open(system, path, size, BLOCK_BYTES)
                file.cache.fetcher = partial(_fetch, ask, size)
                file.seek(size - 1)
                file.read(1)  # readers of both formats start there
                file.seek(0)
                return BufferedReader(_Remote(file, size), BUFFER_BYTES)
        return _copy(ask, size)
    except BrokenTransfer as error:
        raise SourceUnreadable(f"{name}: {error}") from error
    except _TooLarge as error:
        most = f"{COPIED_BYTES // 2**30} GiB"
        raise SourceUnsupported(
            f"{name}: its server gives no parts of a file, and more than {most} is not copied; copy it here"
        ) from error


def _fetch(ask: Callable[..., Any], size: int, start: int, end: int) -> bytes:
    """Return the bytes of a file from `start` to `end`. fsspec's own request would read all that a server sends.

    Raises _NoParts if the server sends the whole file instead, and BrokenTransfer if the connection breaks.
    """
    end = min(end, size)
    with connected(), closing(ask(Range=f"bytes={start}-{end - 1}")) as answer:
        if answer.r.status != 206 and (start, end) != (0, size):
            raise _NoParts("its server gives no parts of a file")
        pieces, left = [], end - start
        while left:
            if not (data := answer.read(left)):
                raise BrokenTransfer(_TOO_SHORT)
            pieces.append(data[:left])
            left -= len(pieces[-1])
    return b"".join(pieces)


def _copy(ask: Callable[..., Any], size: int | None) -> FileIO:
    """Return a copy of the whole file in a temporary file without a name, which is removed when it is closed.

    Raises _TooLarge above COPIED_BYTES, and BrokenTransfer if the connection breaks.
    """
    if size is not None and size > COPIED_BYTES:
        raise _TooLarge
    with ExitStack() as unless_copied:
        file: FileIO = unless_copied.enter_context(TemporaryFile(buffering=0))
        with connected(), closing(ask()) as answer:
            while data := answer.read(BLOCK_BYTES):
                if file.tell() + len(data) > COPIED_BYTES:
                    raise _TooLarge
                file.write(data)
        if size is not None and file.tell() != size:
            raise BrokenTransfer(_TOO_SHORT)
        file.seek(0)
        unless_copied.pop_all()
    return file


@contextmanager
def connected() -> Iterator[None]:
    """Raise BrokenTransfer for an error of a connection, since each file system has its own."""
    try:
        yield
    except (BrokenTransfer, _TooLarge):
        raise
    except Exception as error:
        raise BrokenTransfer(f"the connection broke ({type(error).__name__})") from error


def _file_system(url: str, scheme: str, name: str) -> tuple[AbstractFileSystem, str]:
    if not REMOTE.is_installed:
        raise SourceUnsupported(f"{name}: {scheme}:// needs another library: {install(REMOTE.name)}")
    _say_no_secrets()
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    try:
        system, path = url_to_fs(url, **_options(scheme))
    except ImportError as error:
        hint = known_implementations.get(scheme, {}).get("err", "a library is missing")
        raise SourceUnsupported(f"{name}: {scheme}:// needs another library: {hint}") from error
    except Exception as error:
        raise SourceUnsupported(f"{name}: {scheme}:// is not a kind of URL that is read") from error
    return system, path


def _say_no_secrets() -> None:
    """Silence the libraries' logs of requests: URLs contain signatures."""
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.WARNING)


def _options(scheme: str) -> dict[str, Any]:
    if scheme not in HTTP:
        return {}
    from aiohttp import ClientTimeout

    # By default aiohttp ends any answer after five minutes.
    timeout = ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENT_S)
    return {"client_kwargs": {"timeout": timeout}, "headers": _HEADERS}


class _Remote(RawIOBase):
    """A file of fsspec. Raises BrokenTransfer if the connection breaks or the file ends too early."""

    def __init__(self, file: AbstractBufferedFile, size: int | None) -> None:
        self._file = file
        self._size = size
        self._seekable = getattr(file, "size", None) is not None  # a streamed answer has no size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable

    def seek(self, offset: int, whence: int = 0) -> int:
        at: int = self._file.seek(offset, whence)
        return at

    def tell(self) -> int:
        at: int = self._file.tell()
        return at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        with connected():
            data = self._file.read(len(buffer))
        if not data and buffer and self._size is not None and self._file.tell() < self._size:
            raise BrokenTransfer(_TOO_SHORT)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _refusal(error: Exception, name: str) -> SourceError:
    """Return the error of a file that cannot be opened, without the library's words, which have the URL."""
    http = name.startswith(HTTP)
    cause = (http and error.__cause__) or error  # over HTTP every error is wrapped as a missing file
    status = getattr(cause, "status", None)
    if status in {404, 410} or (cause is error and isinstance(error, FileNotFoundError)):
        return SourceMissing(f"{name}: there is no such file")
    if status is not None:
        return SourceUnreadable(f"{name}: the server answers {status}")
    if "Redirect" in type(cause).__name__:
        return SourceUnreadable(f"{name}: the server redirects to a URL that is not HTTP, or in a circle")
    kinds = [kind.__name__ for kind in type(cause).__mro__]
    why = next((_WHY[kind] for kind in kinds if kind in _WHY), f"it cannot be opened ({kinds[0]})")
    return SourceUnreadable(f"{name}: {why}")


def _file_name(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme.lower() in HTTP:
        rest = unquote(urlsplit(url).path)
    return rest.rstrip("/").rpartition("/")[2] or rest
