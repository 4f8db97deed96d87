"""Archives and mailboxes: each member that is a document, read lazily and never unpacked to disk.

The list of members at the end of a zip file is read at once and may take 8 MiB. A tar file is read from start to end,
plain or compressed, and so is a mailbox (RFC 4155).
"""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import PurePosixPath
from typing import Any, Self

from docmill.storage.readers.documents import NO_SUFFIX
from docmill.storage.readers.errors import (
    BrokenStream,
    SourceError,
    finding_bugs,
)
from docmill.storage.readers.files import Opened, Source, SourceFile, source_of_records
from docmill.storage.readers.many_files import MixedSource, is_hidden, without_results
from docmill.storage.readers.records import Member, Record, Rejection, SourceOptions, too_long
from docmill.storage.readers.registry import document_suffixes, records_in
from docmill.storage.readers.streams import (
    Counted,
    Decompress,
    Expansion,
    buffered,
    grouped_lines,
    path_text,
)

Members = Callable[[Opened, SourceOptions], Iterator[Member]]

MOST_LISTED = 8 * 2**20
_MOST_HEADER = 2**20  # a member's long name and attributes in a tar file
_MOST_ATTRIBUTES = 1_000  # of a whole tar file, which are set for each of its members
_SKIPPED_BYTES = 2**20
_UNPACK = "unpack the archive first"
# zipfile raises NotImplementedError for an encryption or a compression that it does not know.
_DAMAGES = (BrokenStream, zipfile.BadZipFile, NotImplementedError, tarfile.TarError, EOFError, OSError, zlib.error)
_QUOTED = re.compile(rb"^>(?=>*From )", re.MULTILINE)  # a line of a message that begins as a message does
_UNPACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # other methods may need any amount of memory


class ArchiveSource(MixedSource[bytes]):
    """The documents of one archive, and the records of its files. Hidden members are skipped."""

    def __init__(self, content: SourceFile, options: SourceOptions, members: Members) -> None:
        self._content = content
        self._members = members
        self._prefix = f"{content.place}/" if options.one_of_many else ""
        self._begin()
        super().__init__(content.name, replace(options, one_of_many=True), self._walk_members, self._open)

    def records(self) -> Iterator[Record | Rejection]:
        self._begin()
        return super().records()

    def _begin(self) -> None:
        self._last = "at its beginning"
        self._inner = Expansion(_UNPACK)  # of compressed members, which may be compressed again around them

    def _walk_members(self) -> Iterator[tuple[str, bytes] | Rejection]:
        with self._content.open() as file:
            for member in self._members(file, self._options):
                if isinstance(member, str):
                    self.ignored[member] += 1
                elif isinstance(member, Rejection):
                    where = self._prefix + member.where
                    yield replace(member, where=where, below=where)
                else:
                    path, raw = member
                    yield self._prefix + path, raw
                    self._last = f"after {self._prefix}{path}"

    def _check(self) -> None:
        with finding_bugs(self._content.place):
            try:
                super()._check()
            except BrokenStream as error:
                raise SourceError(f"{self._content.place}: {error}") from error
            except _DAMAGES as error:
                raise SourceError(f"{self._content.place} is damaged, or no archive of that kind") from error

    def _items(self) -> Iterator[Record | Rejection]:
        with finding_bugs(self._content.place):
            try:
                yield from super()._items()
            except _DAMAGES as error:
                reason = str(error) if isinstance(error, BrokenStream) else "it is damaged, or ends too early"
                yield Rejection(self._content.place, f"{reason}, {self._last}; nothing more was read", fatal=True)

    def _is_document(self, path: str) -> bool:
        return records_in(path) is None

    def _read_document(self, path: str, file: bytes) -> Record | Rejection:
        return self._documents.document(path, file)

    def _say_nothing_is_read(self) -> str:
        kinds = ", ".join(document_suffixes())
        return f"no {kinds}, .jsonl, .csv or other members in {self._content.place} that are read"

    def _open(self, raw: bytes, options: SourceOptions, path: str) -> Source:
        """Return the source of a member with records. Raises SourceError."""
        how = records_in(path)
        assert how is not None
        kind, decompress = how
        content = SourceFile(f"{self.name}/{path}", path, len(raw), lambda: BufferedReader(BytesIO(raw)))
        bounded = None if decompress is None else partial(self._decompressed, decompress)
        return without_results(source_of_records(kind.rows, bounded, kind.options, content, options))

    def _decompressed(self, decompress: Decompress, file: RawIOBase) -> Iterator[bytes]:
        """Yield a member's content within the limits of the archive, where many members may be one small file."""
        size = self._content.size_bytes
        for piece in decompress(file):
            if size is not None:
                self._inner.add(size, len(piece), piece.count(b"\n"))
            yield piece


def zipped(file: Opened, options: SourceOptions, _: Decompress | None = None) -> Iterator[Member]:
    """Yield the members of a zip file."""
    listed = _directory_bytes(file)
    if listed > MOST_LISTED:
        raise SourceError(
            f"the zip file lists more members than are read ({listed:,} bytes of names): unpack it into a folder"
        )
    wanted = document_suffixes()
    size, whole = file.seek(0, 2), Expansion(_UNPACK)
    try:
        opened = zipfile.ZipFile(file)
    except ValueError as error:  # a name that is not UTF-8
        raise zipfile.BadZipFile from error
    with opened as archive:
        for member in archive.infolist():
            if member.filename.endswith("/") or _is_hidden(member.filename):
                continue
            where = path_text(member.filename)
            if (unread := _by_name(member.filename, wanted)) is not None:
                yield unread
            elif member.flag_bits & 1:
                yield Rejection(where, "it is protected by a password")
            elif member.compress_type not in _UNPACKED:
                yield Rejection(where, "it is compressed in a way that is not read; deflate is")
            else:
                # Its claimed size counts, which also bounds the reading: members may overlap.
                whole.add(size, min(member.file_size, options.max_record_bytes), 0)
                unpacked = _zipped(archive, member, options.max_record_bytes)
                if isinstance(unpacked, tuple):
                    whole.add(size, 0, unpacked[1].count(b"\n"))
                yield unpacked


def _zipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> Member:
    where = path_text(member.filename)
    if member.file_size > limit:
        return Rejection(where, _too_long(where, limit))
    try:
        Expansion(_UNPACK).add(member.compress_size, member.file_size, 0)
    except BrokenStream as error:
        return Rejection(where, str(error))
    try:
        with archive.open(member) as stream:
            raw = stream.read()
    except NotImplementedError:  # raised for patches, and for encryption without a password flag
        return Rejection(where, "it is packed in a way that is not read, or damaged")
    except (zipfile.BadZipFile, EOFError, ValueError, OverflowError, zlib.error):
        return Rejection(where, "it is damaged")
    return where, raw


def _too_long(path: str, limit: int) -> str:
    if records_in(path) is None:
        return too_long(limit)
    return f"larger than {limit:,} bytes, the limit for a file in an archive: unpack the archive into a folder"


def _directory_bytes(file: Opened) -> int:
    """Return the size of a zip file's list of members, before any of it is read."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is None:
        raise zipfile.BadZipFile
    return int(end[zipfile._ECD_SIZE])  # type: ignore[attr-defined]


class _Member(tarfile.TarInfo):
    """A member of a tar file. Its names and attributes may take at most `_MOST_HEADER` bytes."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """Return the next member. `tarfile` takes a damaged header, and a file that is cut at one, for the end."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the end mark
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError("a header is damaged, or the end mark is missing") from error

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        heads = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if self.type in (*heads, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK) and self.size > _MOST_HEADER:
            raise tarfile.ReadError("a member's attributes are too long")
        if self.size < 0 or len(tarfile_.pax_headers) > _MOST_ATTRIBUTES:
            raise tarfile.ReadError("a member has less than no bytes, or there are too many attributes")
        try:
            made: tarfile.TarInfo = super()._proc_member(tarfile_)  # type: ignore[misc]
        except (ValueError, IndexError, RecursionError) as error:  # of attributes that make no sense
            raise tarfile.ReadError("a member's attributes are damaged") from error
        return made


class _Forwards:
    """A tar file as `tarfile` reads it, from start to end. It ends where the file ends, whatever a member claims."""

    def __init__(self, stream: BufferedReader, size: int | None) -> None:
        self._stream = stream
        self._at = 0
        self._size = size

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self._at

    def read(self, n: int) -> bytes:
        raw = self._stream.read(n)
        self._at += len(raw)
        return raw

    def seek(self, offset: int) -> None:
        """Go on to an offset. Raises ReadError for one before here or beyond the end."""
        if offset < self._at:
            raise tarfile.ReadError("a member lies before its name")
        if self._size is not None:
            if offset > self._size:
                raise tarfile.ReadError("unexpected end of data")
            self._at = self._stream.seek(offset)
        while self._at < offset:
            if not self.read(min(_SKIPPED_BYTES, offset - self._at)):
                raise tarfile.ReadError("unexpected end of data")


def tarred(file: Opened, options: SourceOptions, decompress: Decompress | None = None) -> Iterator[Member]:
    """Yield the members of a tar file."""
    stream = buffered(Counted(file), decompress)
    size = None
    if stream.seekable():
        size = stream.seek(0, 2)
        stream.seek(0)
    wanted = document_suffixes()
    source: Any = _Forwards(stream, size)
    with tarfile.open(fileobj=source, mode="r:", tarinfo=_Member) as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # it would keep every one of them
            if _is_hidden(member.name) or not (member.isfile() or member.islnk() or member.issym()):
                continue
            if (unread := _by_name(member.name, wanted)) is not None:
                yield unread
            elif not member.isfile():
                yield Rejection(path_text(member.name), "a link within an archive is not followed")
            elif member.issparse():
                yield Rejection(path_text(member.name), "it is stored with holes: pack it without --sparse")
            elif size is not None and member.offset_data + member.size > size:
                raise BrokenStream(
                    f"{path_text(member.name)} claims {member.size:,} bytes, and the archive has {size:,}"
                )
            else:
                yield _tarred(archive, member, options.max_record_bytes)


def _tarred(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> Member:
    where = path_text(member.name)
    if member.size > limit:
        return Rejection(where, _too_long(where, limit))
    content = archive.extractfile(member)
    assert content is not None
    raw = content.read()
    if len(raw) < member.size:
        raise EOFError
    return where, raw


def messages(file: Opened, options: SourceOptions, decompress: Decompress | None = None) -> Iterator[Member]:
    """Yield the messages of a mailbox, each named for its number."""
    limit = options.max_record_bytes
    records = grouped_lines(buffered(Counted(file), decompress), limit, lambda line: line.startswith(b"From "))
    for number, (_, _, raw) in enumerate(records, 1):
        name = f"{number}.eml"
        if raw is None:
            yield Rejection(name, too_long(limit))
        else:
            yield name, _QUOTED.sub(b"", raw.partition(b"\n")[2])


def _is_hidden(name: str) -> bool:
    return any(map(is_hidden, PurePosixPath(name).parts))


def _by_name(name: str, wanted: tuple[str, ...]) -> str | Rejection | None:
    """Return the suffix of a member that is not read, or the rejection of its path; None for a member to read."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in wanted and records_in(path.name) is None:
        return path.suffix or NO_SUFFIX
    if path.is_absolute() or ".." in path.parts:
        return Rejection(path_text(name), "its name leads out of the archive")
    return None
