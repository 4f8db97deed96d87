"""Archives and mailboxes: each member that is a document, read lazily and never unpacked to disk.

The list of members at the end of a zip file is read at once and may take 8 MiB. A tar file is read from start to end,
plain or compressed, and so is a mailbox (RFC 4155).
"""

from __future__ import annotations

import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import PurePosixPath
from typing import Any

from docmill.storage.readers.documents import NO_SUFFIX, DocumentReader
from docmill.storage.readers.errors import (
    BrokenStream,
    BrokenTransfer,
    SourceEmpty,
    SourceError,
    SourceUnreadable,
    TooExpanded,
    finding_bugs,
)
from docmill.storage.readers.files import Content, Opened, Source, source_of_records, up_to
from docmill.storage.readers.many_files import LEFT_OUT, is_hidden, with_file, without_results
from docmill.storage.readers.records import LeftOut, Member, Record, Rejection, SourceOptions, too_long
from docmill.storage.readers.registry import document_suffixes, records_in
from docmill.storage.readers.streams import (
    Counted,
    Decompress,
    Expansion,
    buffered,
    lines,
    printable,
)

Members = Callable[[Opened, SourceOptions], Iterator[Member]]

MOST_LISTED = 8 * 2**20
_MOST_HEADER = 2**20  # a member's long name and attributes in a tar file
_MOST_ATTRIBUTES = 1_000  # of a whole tar file, which are set for each of its members
_SKIPPED_BYTES = 2**20
_UNPACK = "unpack the archive first"
_END = struct.Struct("<4s4H2LH")  # end of central directory: signature, …, its size, its offset, comment
_END64 = struct.Struct("<4sQ2H2L4Q")
_DAMAGES = (BrokenStream, zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, zlib.error)
_UNPACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # other methods may need any amount of memory


class ArchiveSource:
    """The documents of one archive, and the records of its files.

    Hidden members are skipped. `ignored` counts members of other kinds and records without the text; `reasons` has
    the reasons.
    """

    def __init__(self, content: Content, options: SourceOptions, members: Members) -> None:
        self._content = content
        self._options = options
        self._members = members
        self._prefix = f"{content.place}/" if options.one_of_many else ""
        self._inner = Expansion(_UNPACK)  # of compressed members, which may be compressed again around them
        self.name = content.name
        self.bytes_read = 0
        self.ignored: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        with content.open() as file, finding_bugs(content.place):
            try:
                self._check(members(file, options))
            except (BrokenTransfer, TooExpanded) as error:
                raise SourceUnreadable(f"{self.name}: {error}") from error
            except _DAMAGES as error:
                why = f": {error}" if isinstance(error, BrokenStream) else ""
                raise SourceUnreadable(f"{self.name} is damaged, or no archive of that kind{why}") from error

    def _check(self, members: Iterator[Member]) -> None:
        """Look for a member that can be read, and raise the reason if there is none."""
        refused: SourceError | None = None
        for member in members:
            if isinstance(member, LeftOut):
                continue
            if isinstance(member, Rejection) or records_in(member[0]) is None:
                return
            try:
                self._source_of(*member)
            except SourceError as error:
                refused = refused or with_file(self._prefix + member[0], error)
            else:
                return
        suffixes = ", ".join(document_suffixes())
        raise refused or SourceEmpty(f"no {suffixes}, .jsonl, .csv or other members in {self.name} that are read")

    def size_bytes(self) -> int | None:
        """Return None: the bytes read of members say little about the progress in the archive."""
        return None

    def records(self) -> Iterator[Record | Rejection]:
        self.bytes_read = 0
        self.ignored.clear()
        self.reasons.clear()
        self._inner = Expansion(_UNPACK)
        return up_to(self._options.limit, self._items())

    def _items(self) -> Iterator[Record | Rejection]:
        place, last = self._content.place, "at its beginning"
        with closing(DocumentReader(self._options)) as reader, self._content.open() as file, finding_bugs(place):
            try:
                for member in self._members(file, self._options):
                    if isinstance(member, LeftOut):
                        self.ignored[member.suffix] += 1
                    elif isinstance(member, Rejection):
                        where = self._prefix + member.where
                        yield replace(member, where=where, below=where)
                    else:
                        path, raw = member
                        self.bytes_read += len(raw)
                        if records_in(path) is None:
                            yield reader.document(self._prefix + path, raw)
                        else:
                            yield from self._records_of(path, raw)
                        last = f"after {self._prefix}{path}"
            except _DAMAGES as error:
                reason = str(error) if isinstance(error, BrokenStream) else "it is damaged, or ends too early"
                yield Rejection(place, f"{reason}, {last}; nothing more was read", fatal=True)

    def _records_of(self, path: str, raw: bytes) -> Iterator[Record | Rejection]:
        """Yield the records of a member, or count it if it has none that can be read."""
        where = self._prefix + path
        try:
            for item in self._source_of(path, raw).records():
                if isinstance(item, Rejection) and not item.keys and item.below is None:
                    yield replace(item, below=where)
                else:
                    yield item
        except LEFT_OUT as error:
            suffix = PurePosixPath(path).suffix
            self.ignored[suffix] += 1
            self.reasons.setdefault(suffix, str(with_file(where, error)))
        except SourceError as error:
            yield Rejection(where, str(error), fatal=True, below=where)

    def _source_of(self, path: str, raw: bytes) -> Source:
        """Return the source of a member with records. Raises SourceError."""
        how = records_in(path)
        assert how is not None
        kind, decompress = how
        opened = partial(_opened, raw)
        content = Content(f"{self.name}/{path}", self._prefix + path, len(raw), opened)
        options = replace(self._options, one_of_many=True)
        bounded = None if decompress is None else partial(self._decompressed, decompress)
        return without_results(source_of_records(kind.rows, bounded, kind.options, content, options))

    def _decompressed(self, decompress: Decompress, file: RawIOBase) -> Iterator[bytes]:
        """Yield a member's content within the limits of the archive, where many members may be one small file."""
        size = self._content.size_bytes
        for piece in decompress(file):
            if size is not None:
                self._inner.add(size, len(piece), piece.count(b"\n"))
            yield piece


def _opened(raw: bytes) -> BufferedReader:
    return BufferedReader(BytesIO(raw))


def zipped(file: Opened, options: SourceOptions, _: Decompress | None = None) -> Iterator[Member]:
    """Yield the members of a zip file."""
    listed = _directory_bytes(file)
    if listed > MOST_LISTED:
        raise SourceUnreadable(
            f"the zip file lists more members than are read ({listed:,} bytes of names): unpack it into a folder"
        )
    wanted = document_suffixes()
    size, whole = file.seek(0, 2), Expansion(_UNPACK)
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.is_dir() or _is_hidden(member.filename):
                continue
            where = printable(member.filename)
            if (unread := _by_name(member.filename, wanted)) is not None:
                yield unread
            elif member.flag_bits & 1:
                yield Rejection(where, "it is protected by a password")
            elif member.compress_type not in _UNPACKED:
                yield Rejection(where, "it is compressed in a way that is not read; deflate is")
            else:
                # Counted by its claim, which ends the reading of it: members may lie over one another.
                whole.add(size, min(member.file_size, options.max_record_bytes), 0)
                unpacked = _zipped(archive, member, options.max_record_bytes)
                if isinstance(unpacked, tuple):
                    whole.add(size, 0, unpacked[1].count(b"\n"))
                yield unpacked


def _zipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> Member:
    where = printable(member.filename)
    if member.file_size > limit:
        return Rejection(where, _too_long(where, limit))
    try:
        Expansion(_UNPACK).add(member.compress_size, member.file_size, 0)
    except TooExpanded as error:
        return Rejection(where, str(error))
    try:
        with archive.open(member) as stream:
            raw = stream.read()
    except NotImplementedError:  # raised for patches, and for encryption without a password flag
        return Rejection(where, "it is packed in a way that is not read, or damaged")
    except (zipfile.BadZipFile, EOFError, zlib.error):
        return Rejection(where, "it is damaged")
    return where, raw


def _too_long(path: str, limit: int) -> str:
    if records_in(path) is None:
        return too_long(limit)
    return f"larger than {limit:,} bytes, the limit for a file in an archive: unpack the archive into a folder"


def _directory_bytes(file: Opened) -> int:
    """Return the size of a zip file's list of members, from its end (APPNOTE.TXT, 4.3.14 and 4.3.16)."""
    size = file.seek(0, 2)
    start = max(0, size - 2**16 - _END.size)
    file.seek(start)
    tail = file.read(size - start) or b""
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) - place < _END.size:
        raise zipfile.BadZipFile
    listed: int = _END.unpack_from(tail, place)[5]
    if listed != 0xFFFFFFFF:
        return listed
    place = tail.rfind(b"PK\6\6", 0, place)
    if place < 0 or len(tail) - place < _END64.size:
        raise zipfile.BadZipFile
    return int(_END64.unpack_from(tail, place)[8])


class _Member(tarfile.TarInfo):
    """A member of a tar file. Its names and attributes may take at most `_MOST_HEADER` bytes."""

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
                yield Rejection(printable(member.name), "a link within an archive is not followed")
            elif member.issparse():
                yield Rejection(printable(member.name), "it is stored with holes: pack it without --sparse")
            elif size is not None and member.offset_data + member.size > size:
                raise BrokenStream(
                    f"{printable(member.name)} claims {member.size:,} bytes, and the archive has {size:,}"
                )
            else:
                yield _tarred(archive, member, options.max_record_bytes)


def _tarred(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> Member:
    where = printable(member.name)
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
    stream = buffered(Counted(file), decompress)
    number, message = 0, bytearray()
    too_much = False
    for line in lines(stream, options.max_record_bytes):
        if line is not None and line.startswith(b"From "):
            if number:
                yield _message(number, message, too_much, options.max_record_bytes)
            number, message, too_much = number + 1, bytearray(), False
        elif line is None or len(message) + len(line) > options.max_record_bytes:
            too_much = True
        elif number:
            # Mailboxes put a > before a line that begins as a message does; remove it.
            message += line[1:] if line.lstrip(b">").startswith(b"From ") else line
    if number:
        yield _message(number, message, too_much, options.max_record_bytes)


def _message(number: int, message: bytearray, too_much: bool, limit: int) -> Member:
    name = f"{number}.eml"
    return Rejection(name, too_long(limit)) if too_much else (name, bytes(message))


def _is_hidden(name: str) -> bool:
    return any(map(is_hidden, PurePosixPath(name).parts))


def _by_name(name: str, wanted: tuple[str, ...]) -> LeftOut | Rejection | None:
    """Return what becomes of a member of another kind or with a path that leads out of the archive; else None."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in wanted and records_in(path.name) is None:
        return LeftOut(path.suffix or NO_SUFFIX)
    if path.is_absolute() or ".." in path.parts:
        return Rejection(printable(name), "its name leads out of the archive")
    return None
