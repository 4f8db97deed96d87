"""Files behind a URL: HTTP, object stores and other file systems of fsspec.

Bytes are streamed. Over HTTP a file is one answer, unless it is read in parts (`http_range.py`); object stores are
read block by block. A file is copied to disk only if it must be read in parts and the server does not serve parts.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from importlib.util import find_spec
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from docmill.storage.core.installation import install
from docmill.storage.readers import credentials
from docmill.storage.readers.errors import (
    BrokenTransfer,
    SourceError,
    SourceMissing,
    SourceUnreadable,
    SourceUnsupported,
)
from docmill.storage.readers.files import Content, Opened
from docmill.storage.readers.http_range import (
    BLOCK_BYTES,
    COPIED_BYTES,
    Answer,
    Ask,
    Blocks,
    NoParts,
    TooLarge,
    connected,
    copied,
)
from docmill.storage.readers.registry import read_in_parts
from docmill.storage.readers.streams import BUFFER_BYTES, printable

if TYPE_CHECKING:
    from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

HTTP = ("http", "https")
_CACHE = {"maxblocks": 32}
# Else aiohttp decompresses answers without a limit.
_HEADERS = {"Accept-Encoding": "identity"}
_CONNECT_S = 30
_SILENT_S = 60
# Protocols of fsspec that read this machine's files or repositories, or that lead to other URLs. `file` is handled as
# a path before.
REFUSED = frozenset(
    (
        *("local", "asynclocal", "git", "dvc"),
        *("reference", "filecache", "simplecache", "blockcache", "cached", "dir", "generic", "data"),
        *("async_wrapper", "asyncwrapper"),
        *("zip", "tar", "libarchive"),
        *("bz2", "gzip", "lz4", "xz", "zstd"),  # registered by the library datasets; they wrap other URLs
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


def content(url: str) -> Content:
    """Return the file at a URL, after asking for its size. `name` has none of the URL's secrets.

    Raises SourceMissing, SourceUnreadable and SourceUnsupported.
    """
    scheme = url.partition("://")[0].lower()
    name = credentials.shown(url)
    if scheme in REFUSED or "::" in url:
        raise _not_read(name)
    if scheme in HTTP:
        url = credentials.with_login(url, name)
    system, path = _file_system(url, scheme, name)
    file_name = printable(_file_name(url))
    try:
        size: int | None = system.info(path).get("size")
    except Exception as error:  # each file system has its own
        raise _refusal(error, name) from error
    how: dict[str, Any] = {"block_size": BLOCK_BYTES, "cache_type": "blockcache", "cache_options": _CACHE}
    if scheme in HTTP:
        how = {"block_size": 0, "size": size or 1}  # else fsspec would ask for it again

    def opened() -> BufferedReader:
        try:
            return BufferedReader(_Remote(system.open(path, "rb", **how), size), BUFFER_BYTES)
        except Exception as error:  # as above
            raise _refusal(error, name) from error

    def ask(headers: dict[str, str]) -> Answer:
        answer: Answer = system.open(path, "rb", **how, headers=_HEADERS | headers)
        return answer

    if scheme in HTTP and read_in_parts(file_name):
        return Content(name, file_name, size, lambda: _here_and_there(ask, size, name))
    return Content(name, file_name, size, opened)


def _here_and_there(ask: Ask, size: int | None, name: str) -> Opened:
    """Return a file that is read in parts, or its copy. Raises SourceUnreadable and SourceUnsupported."""
    try:
        if size is not None:
            with suppress(NoParts):
                return BufferedReader(Blocks(ask, size), BUFFER_BYTES)
        return copied(ask, size)
    except BrokenTransfer as error:
        raise SourceUnreadable(f"{name}: {error}") from error
    except TooLarge as error:
        most = f"{COPIED_BYTES // 2**30} GiB"
        raise SourceUnsupported(
            f"{name}: its server gives no parts of a file, and more than {most} is not copied; copy it here"
        ) from error


def _file_system(url: str, scheme: str, name: str) -> tuple[AbstractFileSystem, str]:
    if find_spec("fsspec") is None or (scheme in HTTP and find_spec("aiohttp") is None):
        raise SourceUnsupported(f"{name}: {scheme}:// needs another library: {install('remote')}")
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
    if REFUSED & protocols_of(system):
        raise _not_read(name)
    return system, path


def protocols_of(system: AbstractFileSystem | type[AbstractFileSystem]) -> set[str]:
    """Return all names of a file system of fsspec, or of its class. A package may register several."""
    names = system.protocol
    return {names} if isinstance(names, str) else {*names}


def _not_read(name: str) -> SourceUnsupported:
    return SourceUnsupported(f"{name}: such a URL is not read; name the file itself")


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
            raise BrokenTransfer("the file ends before the size that its server said")
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
