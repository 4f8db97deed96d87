"""Files behind a URL: HTTP, object stores and other file systems of fsspec, and the secrets in URLs.

Bytes are streamed. Over HTTP a file is one answer, unless it is read in parts: the end of a zip file, a column of
Parquet. These, and the files of object stores, are read block by block, through fsspec's cache of blocks. A file is
copied to disk only if it must be read in parts and the server does not serve parts.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from io import BufferedReader, FileIO, RawIOBase
from netrc import NetrcParseError, netrc
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from docmill.storage.extras import REMOTE
from docmill.storage.readers.errors import (
    BrokenStream,
    SourceError,
    SourceMissing,
    SourceUnsupported,
)
from docmill.storage.readers.files import Opened, SourceFile
from docmill.storage.readers.registry import read_in_parts
from docmill.storage.readers.streams import BUFFER_BYTES, path_text

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
_NO_SUCH_PART = 416
_CHANGED = "the file was changed on its server while it was read"
_DATABASES = ("postgresql", "postgres", "sqlite")
_NAMES_NO_USER = ("github", "gist", "git")  # of which `a:b@` is a repository
# Parameters that are no secret. The value of any other one may be: a signature, a token, a key.
_HARMLESS = frozenset(
    (
        *("page", "part", "offset", "start", "end", "limit", "count", "order", "sort", "filter", "q", "query"),
        *("id", "name", "file", "filename", "path", "sheet", "gid", "table", "field", "fields", "columns", "where"),
        *("year", "month", "day", "date", "from", "to", "since", "until", "lang", "language", "locale", "country"),
        *("format", "type", "output", "alt", "encoding", "compression", "header", "download", "dl", "raw", "export"),
        *("version", "versionId", "generation", "ref", "rev", "revision", "branch", "split", "config", "subset"),
        # libpq's, but for its passwords
        *("host", "hostaddr", "port", "dbname", "user", "service", "options", "application_name", "client_encoding"),
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslsni", "sslnegotiation", "gssencmode"),
        *("require_auth", "channel_binding", "target_session_attrs", "load_balance_hosts", "connect_timeout"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "passfile"),
    )
)
# Parameters that give access (signatures of AWS, Google and Azure, tokens) and do not say which file it is.
_OF_ACCESS = re.compile(
    r"x-[a-z]+-.*|(aws|google)access(key)?id|key-pair-id|expires|signature|policy|s[eiprstv]|sig|sip|spr|srt|sk[a-z]+"
    r"|((access|api|auth)[_-]?)?(token|key)",
    re.IGNORECASE,
)
_MASK = "***"
_NESTED = re.compile(r"(://[^/?#@\s:'\"]*):[^/?#@]+@")
_INSTEAD_OF_A_SIGNATURE = (
    "name the file by its store's own URL (s3://BUCKET/KEY, gs://, abfs://), whose credentials the workers have: in "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in GOOGLE_APPLICATION_CREDENTIALS, in "
    "AZURE_STORAGE_CONNECTION_STRING, or by a role"
)


class _NoParts(BrokenStream):
    """The server does not serve parts of a file."""


def content(url: str) -> SourceFile:
    """Return the file at a URL, after asking for its size. `name` has none of the URL's secrets.

    Raises SourceError.
    """
    scheme = url.partition("://")[0].lower()
    name = mask_secrets(url)
    if scheme not in READ or "::" in url:
        raise SourceUnsupported(f"{name}: such a URL is not read; name the file itself")
    if scheme in HTTP:
        url = add_login(url, name)
    system, path = _file_system(url, scheme, name)
    file_name = path_text(_file_name(url))
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
        return SourceFile(name, file_name, size, partial(_open_in_parts, system, path, size, name))
    return SourceFile(name, file_name, size, opened)


def _open(system: AbstractFileSystem, path: str, size: int | None, block_bytes: int, **how: Any) -> Any:
    """Open a file of fsspec. It asks for the size of an HTTP file again unless it is told one."""
    if "http" in system.protocol:
        how["size"] = size or 1
    cache = {"cache_type": "blockcache", "cache_options": {"maxblocks": _CACHED}} if block_bytes else {}
    return system.open(path, "rb", block_size=block_bytes, **cache, **how)


def _open_in_parts(system: AbstractFileSystem, path: str, size: int | None, name: str) -> Opened:
    """Return an HTTP file that is read in parts, or its copy. All answers are of one version. Raises SourceError."""
    versions = set[str | None]()

    def ask(**headers: str) -> Any:
        try:
            answer = _open(system, path, size, 0, headers=_HEADERS | headers)
        except Exception as error:
            if getattr(error, "status", None) == _NO_SUCH_PART:  # it is shorter now
                raise BrokenStream(_CHANGED) from error
            raise
        said = answer.r.headers
        versions.add(said.get("ETag") or said.get("Last-Modified"))
        if len(versions) > 1 or (size and said.get("Content-Range", "/*").rpartition("/")[2] not in {"*", str(size)}):
            answer.close()
            raise BrokenStream(_CHANGED)
        return answer

    try:
        if size:
            with suppress(_NoParts):
                file = _open(system, path, size, BLOCK_BYTES)
                file.cache.fetcher = partial(_fetch, ask, size)
                file.seek(size - 1)
                file.read(1)  # readers of both formats start there
                file.seek(0)
                return BufferedReader(_Remote(file, size), BUFFER_BYTES)
        return _copy(ask, size, name)
    except BrokenStream as error:
        raise SourceError(f"{name}: {error}") from error


def _fetch(ask: Callable[..., Any], size: int, start: int, end: int) -> bytes:
    """Return the bytes of a file from `start` to `end`. fsspec's own request would read all that a server sends.

    Raises _NoParts if the server sends the whole file instead, and BrokenStream if the connection breaks.
    """
    end = min(end, size)
    with connected(), closing(ask(Range=f"bytes={start}-{end - 1}")) as answer:
        if answer.r.status != 206 and (start, end) != (0, size):
            raise _NoParts("its server gives no parts of a file")
        pieces, left = [], end - start
        while left:
            if not (data := answer.read(left)):
                raise BrokenStream(_TOO_SHORT)
            pieces.append(data[:left])
            left -= len(pieces[-1])
    return b"".join(pieces)


def _copy(ask: Callable[..., Any], size: int | None, name: str) -> FileIO:
    """Return a copy of the whole file in a temporary file without a name, which is removed when it is closed.

    Raises SourceUnsupported above COPIED_BYTES, and BrokenStream if the connection breaks.
    """
    too_large = SourceUnsupported(
        f"{name}: its server gives no parts of a file, and more than {COPIED_BYTES // 2**30} GiB is not copied; copy "
        "it here"
    )
    if size is not None and size > COPIED_BYTES:
        raise too_large
    with ExitStack() as unless_copied:
        file: FileIO = unless_copied.enter_context(TemporaryFile(buffering=0))
        with connected(), closing(ask()) as answer:
            while data := answer.read(BLOCK_BYTES):
                if file.tell() + len(data) > COPIED_BYTES:
                    raise too_large
                file.write(data)
        if size is not None and file.tell() != size:
            raise BrokenStream(_TOO_SHORT)
        file.seek(0)
        unless_copied.pop_all()
    return file


@contextmanager
def connected() -> Iterator[None]:
    """Raise BrokenStream for an error of a connection, since each file system has its own."""
    try:
        yield
    except (BrokenStream, SourceError):
        raise
    except Exception as error:
        raise BrokenStream(f"the connection broke ({type(error).__name__})") from error


def _file_system(url: str, scheme: str, name: str) -> tuple[AbstractFileSystem, str]:
    REMOTE.require(f"{name}: {scheme}://", error=SourceUnsupported)
    _say_no_secrets()
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    try:
        system, path = url_to_fs(url, skip_instance_cache=True, **_options(scheme))  # a cached one keeps old lists
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
    """A file of fsspec. Raises BrokenStream if the connection breaks or the file ends too early."""

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
            raise BrokenStream(_TOO_SHORT)
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
        return SourceError(f"{name}: the server answers {status}")
    if "Redirect" in type(cause).__name__:
        return SourceError(f"{name}: the server redirects to a URL that is not HTTP, or in a circle")
    kinds = [kind.__name__ for kind in type(cause).__mro__]
    why = next((_WHY[kind] for kind in kinds if kind in _WHY), f"it cannot be opened ({kinds[0]})")
    return SourceError(f"{name}: {why}")


def _file_name(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme.lower() in HTTP:
        rest = unquote(urlsplit(url).path)
    return rest.rstrip("/").rpartition("/")[2] or rest


def mask_secrets(source: str) -> str:
    """Return a source for the store and for messages: a URL without a password, and with harmless parameters only."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return path_text(source)
    scheme = scheme.lower()
    user, rest = _split_user(scheme, rest)
    address, mark, query = rest.partition("?")
    parameters, statement = _split_parameters(scheme, query)
    if _find_secret_parameter(parameters) is not None:
        parameters = _mask(parameters, address)
    if user is not None:
        account, colon, _ = user.partition(":")
        if colon and account:
            address = f"{account}:***@{address}"
        elif not colon and scheme.startswith(_DATABASES):
            address = f"{account}@{address}"
        else:
            address = f"***@{address}"
    return _NESTED.sub(r"\1:***@", path_text(f"{scheme}://{address}{mark}{parameters}{statement}"))


def _mask(parameters: str, address: str) -> str:
    """Return the mask of parameters that may contain a secret. Different parameters have different masks.

    Parameters that give access do not count, since they may be new each time. A slow digest hinders guesses.
    """
    kept = [part for part in re.split("[&;]", parameters) if not _OF_ACCESS.fullmatch(part.partition("=")[0])]
    if not kept or parameters.startswith(_MASK):
        return _MASK if not kept else parameters
    digest = hashlib.scrypt("&".join(kept).encode(), salt=address.encode(), n=2**14, r=8, p=1, dklen=4)
    return f"{_MASK}{digest.hex()}"


def describe_secret(source: str) -> str | None:
    """Return a message about the secret in a source that is to be stored, with advice; None for a source without one.

    The sentence goes on from "the source" and shows nothing of the secret.
    """
    scheme, separator, rest = source.partition("://")
    if not separator:
        return None
    scheme = scheme.lower()
    user, rest = _split_user(scheme, rest)
    if user is not None and scheme not in _NAMES_NO_USER:
        if user.partition(":")[2]:
            return f"has a password, which would be stored; leave it out, and {_elsewhere(scheme)}"
        if scheme in HTTP:
            return f"has a token before the @, which would be stored; leave it out, and {_elsewhere(scheme)}"
    parameters, _ = _split_parameters(scheme, rest.partition("?")[2])
    if (name := _find_secret_parameter(parameters)) is not None:
        what = f"has a parameter that may be a secret ({path_text(name)}), which would be stored"
        how = _elsewhere(scheme) if scheme not in HTTP else _INSTEAD_OF_A_SIGNATURE
        return f"{what}; leave it out, and {how}"
    if scheme not in _NAMES_NO_USER and _NESTED.search(rest):
        return "has a URL with a password in it, which would be stored; leave it out"
    return None


def _elsewhere(scheme: str) -> str:
    """Return where the secrets of a kind of URL are put, so that the workers have them."""
    if scheme.startswith(_DATABASES):
        return "give it to the workers by PGPASSWORD, or in the file ~/.pgpass of their user"
    if scheme in HTTP:
        return (
            "put it into the file ~/.netrc of the workers' user: machine HOST login USER password PASSWORD (a token "
            "is the login or the password, as its server wants it)"
        )
    return (
        "give it to the workers by the environment, as the store's own tools take it (AWS_ACCESS_KEY_ID and "
        f'AWS_SECRET_ACCESS_KEY, say), or in ~/.config/fsspec/docmill.json: {{"{scheme}": {{"password": "…"}}}}'
    )


def add_login(url: str, name: str) -> str:
    """Return an HTTP URL with the login that ~/.netrc has for its host, unless it has one.

    A redirect to another host takes no login along. Raises SourceError for a file that cannot be used.
    """
    scheme, _, rest = url.partition("://")
    host = urlsplit(url).hostname
    if _split_user(scheme, rest)[0] is not None or not host:
        return url
    try:
        entry = netrc().hosts.get(host)  # without the default, which would go to every host
    except (FileNotFoundError, RuntimeError):  # there is no such file, or no home
        return url
    except (NetrcParseError, OSError, UnicodeDecodeError):
        # Not in the error's words, nor from it: they may be a password.
        advice = "it is not written as a .netrc is, or others may read it (chmod 600 ~/.netrc)"
        raise SourceError(f"{name}: the logins in ~/.netrc cannot be used: {advice}") from None
    if entry is None:
        return url
    login, _, password = entry
    return f"{scheme}://{quote(login or '', safe='')}:{quote(password or '', safe='')}@{rest}"


def _split_user(scheme: str, rest: str) -> tuple[str | None, str]:
    """Split what follows a scheme into the user (with a password), and the rest.

    A password in which a / or an @ stands as it is ends at the last @.
    """
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    host, colon, port = authority.partition(":")
    # A database's name has no @, but a query may have one, and a password may begin as a port does: `12/34`.
    database = rest.partition("?")[0] if scheme.startswith(_DATABASES) else ""
    is_port = port.isdecimal() and "@" not in database
    if "@" in authority:
        at = authority.rindex("@")
    elif colon and port and not is_port and "[" not in host and "@" in rest:
        at = (database if "@" in database else rest).rindex("@")
    else:
        return None, rest
    return rest[:at], rest[at + 1 :]


def _split_parameters(scheme: str, query: str) -> tuple[str, str]:
    """Split what follows the first ? into parameters and, of a database, the statement with the ? before it."""
    if not scheme.startswith(_DATABASES):
        return query, ""
    parameters, mark, statement = query.partition("?")
    if re.fullmatch(r"[\w.]+=[^?\s]*", parameters):
        return parameters, mark + statement
    return "", query


def _find_secret_parameter(query: str) -> str | None:
    """Return the name of the first parameter that may be a secret; "…" for one without a name and a value."""
    for parameter in filter(None, re.split("[&;]", query)):
        name, _, value = parameter.partition("=")
        if (name := unquote_plus(unquote(name))) not in _HARMLESS:
            return name if value else "…"
    return None
