"""The sources that docmill reads. A kind of file, of archive or of source is one line of a table here.

Help, errors and the message about files that were left out derive from these lines. A line names its function as
`module:function`, which is loaded when it is needed. Features add kinds (`storage.readers.sources`); those of this
module take precedence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from pkgutil import resolve_name
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from docmill.storage.core.server import POSTGRESQL
from docmill.storage.extras import EXCEL, FORMATS, PARQUET, Extra, install
from docmill.storage.readers.errors import SourceUnsupported
from docmill.storage.readers.records import Member, RowReader, Rows, SourceOptions
from docmill.storage.readers.streams import Decompress, gunzip, of_text, unzstd

if TYPE_CHECKING:
    from docmill.storage.readers.files import Opened, Source


@dataclass(frozen=True)
class Records:
    """A file of records, read by `(stream, name, options) -> rows`.

    `is_text` says that its bytes are text: they are decoded to UTF-8 first, and may be compressed. A reader that
    `seeks` does not read the file from its beginning to its end. `called` is the format's name in messages.
    `has_sheets` says that the file is read one sheet at a time.
    """

    reader: str
    extra: Extra | None = None
    is_text: bool = True
    seeks: bool = False
    called: str = ""
    has_sheets: bool = False

    holds: ClassVar = "records"

    @property
    def may_be_compressed(self) -> bool:
        return self.is_text

    @property
    def options(self) -> tuple[str, ...]:
        """The options of reading that may be given for the file."""
        return (*(["encoding"] if self.is_text else []), *(["sheet", "header_row"] if self.has_sheets else []))

    def rows(self, stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
        """Return the file's rows. Raises SourceUnsupported, with the command to install a library that is missing."""
        if self.extra is not None:
            self.extra.require(f"{name}: {self.called}", error=SourceUnsupported)
        rows: RowReader = resolve_name(self.reader)
        return (of_text(rows) if self.is_text else rows)(stream, name, options)


@dataclass(frozen=True)
class Document:
    """A file that is one document: text, or a format with a media type, from which a library extracts the text.

    `is_text` says that its bytes are text: they are decoded to UTF-8 first, and may be compressed.
    """

    media_type: str | None = None
    extra: Extra | None = None
    is_text: bool = False

    holds: ClassVar = "one document"

    @property
    def may_be_compressed(self) -> bool:
        return self.is_text

    @property
    def options(self) -> tuple[str, ...]:
        """The options of reading that may be given for the file; a page that names its encoding ignores another."""
        return ("encoding", "ocr") if self.media_type == PDF else ("encoding",)


@dataclass(frozen=True)
class Archive:
    """A file whose members are documents, read by `(file, options, decompress) -> members`.

    `seeks` is that of `Records`. With `has_files` the members are files of any kind, also files of records.
    """

    reader: str
    extra: Extra | None = None
    may_be_compressed: bool = True
    seeks: bool = False
    has_files: bool = True

    @property
    def holds(self) -> str:
        return "files of documents and records" if self.has_files else "documents, one in each member"

    @property
    def options(self) -> tuple[str, ...]:
        """The options of reading that may be given for the file."""
        return ("encoding", "ocr", *(["sheet", "header_row"] if self.has_files else []))

    def members(self, decompress: Decompress | None, file: Opened, options: SourceOptions) -> Iterator[Member]:
        """Return the file's members."""
        members: Iterator[Member] = resolve_name(self.reader)(file, options, decompress)
        return members


@dataclass(frozen=True)
class Scheme:
    """A kind of URL, opened by `(url, options) -> source`. `what` and `example` are for help.

    `place` is a function that returns a URL's path on this machine; None for a kind that never has one.
    """

    opener: str
    what: str
    example: str
    place: str | None = None

    def open(self, url: str, options: SourceOptions) -> Source:
        source: Source = resolve_name(self.opener)(url, options)
        return source

    def path_of(self, url: str) -> Path | None:
        path: Path | None = resolve_name(self.place)(url) if self.place else None
        return path


HTML = "text/html"
MAIL = "message/rfc822"
PDF = "application/pdf"
SRT, VTT = "application/x-subrip", "text/vtt"
_OFFICE = "application/vnd.openxmlformats-officedocument"

WORKBOOK = Records(
    "docmill.storage.readers.sheets:rows", EXCEL, is_text=False, seeks=True, called="a workbook", has_sheets=True
)
ARROW = Records("docmill.storage.readers.arrow:rows", PARQUET, is_text=False, called="Arrow")

FILES: dict[str, Records | Document | Archive] = {
    ".jsonl": Records("docmill.storage.readers.jsonl:rows"),
    ".ndjson": Records("docmill.storage.readers.jsonl:rows"),
    ".csv": Records("docmill.storage.readers.delimited:rows"),
    ".tsv": Records("docmill.storage.readers.delimited:tab_separated_rows"),
    ".parquet": Records(
        "docmill.storage.readers.arrow:parquet_rows", PARQUET, is_text=False, seeks=True, called="Parquet"
    ),
    ".arrow": ARROW,
    ".feather": ARROW,
    ".xlsx": WORKBOOK,
    ".xlsm": WORKBOOK,
    ".xls": WORKBOOK,
    ".ods": WORKBOOK,
    ".txt": Document(is_text=True),
    ".md": Document(is_text=True),
    ".html": Document(HTML, FORMATS),
    ".htm": Document(HTML, FORMATS),
    ".pdf": Document(PDF, FORMATS),
    ".doc": Document("application/msword", FORMATS),
    ".docx": Document(f"{_OFFICE}.wordprocessingml.document", FORMATS),
    ".ppt": Document("application/vnd.ms-powerpoint", FORMATS),
    ".pptx": Document(f"{_OFFICE}.presentationml.presentation", FORMATS),
    ".odt": Document("application/vnd.oasis.opendocument.text", FORMATS),
    ".rtf": Document("application/rtf", FORMATS),
    ".epub": Document("application/epub+zip", FORMATS),
    ".eml": Document(MAIL, FORMATS),
    ".srt": Document(SRT, FORMATS, is_text=True),
    ".vtt": Document(VTT, FORMATS, is_text=True),
    ".zip": Archive("docmill.storage.readers.archives:zipped", may_be_compressed=False, seeks=True),
    ".tar": Archive("docmill.storage.readers.archives:tarred"),
    ".mbox": Archive("docmill.storage.readers.archives:messages", FORMATS, has_files=False),
}
COMPRESSIONS: dict[str, Decompress] = {".gz": gunzip, ".zst": unzstd}
SHORTHANDS = {".tgz": (".tar", ".gz")}

_DATASET, _QUERY = "docmill.storage.readers.dataset", "docmill.storage.readers.query"
SCHEMES: dict[str, Scheme] = {
    "datasets": Scheme(
        f"{_DATASET}:open_dataset",
        "a data set of Hugging Face",
        "datasets://OWNER/NAME?split=train",
        f"{_DATASET}:folder_of",
    ),
    "sqlite": Scheme(f"{_QUERY}:QuerySource", "a query", "sqlite:///FILE?SELECT ...", f"{_QUERY}:sqlite_file"),
    **dict.fromkeys(
        sorted(POSTGRESQL), Scheme(f"{_QUERY}:QuerySource", "a query", "postgresql://USER@HOST/NAME?SELECT ...")
    ),
}
# Other sources, as users write them. `storage.readers.sources` tells them apart.
PLACES = (
    "a folder",
    "a quoted pattern such as 'data/**/*.csv'",
    "a URL of any such file",
)
STDIN = "- for JSON lines on standard input"


def kind_of(file_name: str) -> tuple[str, Decompress | None]:
    """Return the suffix, in lower case, that says how a file of this name is read, and its compression's function.

    The suffix is empty for a name without one.
    """
    suffixes = [suffix.lower() for suffix in PurePosixPath(file_name).suffixes[-2:]]
    last = suffixes.pop() if suffixes else ""
    if last in SHORTHANDS:
        last, compression = SHORTHANDS[last]
        return last, COMPRESSIONS[compression]
    if (decompress := COMPRESSIONS.get(last)) is not None:
        return (suffixes.pop() if suffixes else ""), decompress
    return last, None


def records_in(file_name: str) -> tuple[Records, Decompress | None] | None:
    """Return the kind of a file of records with this name, and its compression's function; None for other files."""
    suffix, decompress = kind_of(file_name)
    kind = FILES.get(suffix)
    if isinstance(kind, Records) and (decompress is None or kind.may_be_compressed):
        return kind, decompress
    return None


def read_in_parts(file_name: str) -> bool:
    """Return True if the reader of a file of this name seeks in it."""
    kind = FILES.get(kind_of(file_name)[0])
    return isinstance(kind, Records | Archive) and kind.seeks


def document_suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that are one document each, without those whose library is missing."""
    return tuple(suffix for suffix, kind in FILES.items() if isinstance(kind, Document) and is_readable(kind))


def readable_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all files that are read, without documents and archives whose library is missing."""
    return tuple(suffix for suffix, kind in FILES.items() if isinstance(kind, Records) or is_readable(kind))


def is_readable(kind: Document | Archive) -> bool:
    """Return True if a kind of file needs no library, or if its library is installed."""
    return kind.extra is None or kind.extra.is_installed


def advise_extras(suffixes: Iterable[str]) -> str:
    """Return a clause with what to install for files of these suffixes; empty where nothing would help."""
    lacking = [
        kind.extra for kind in map(FILES.get, map(str.lower, suffixes)) if isinstance(kind, Document | Archive)
    ]
    names = dict.fromkeys(extra.name for extra in lacking if extra is not None and not extra.is_installed)
    return "".join(f"; {install(name)} reads {', '.join(_needing(name))}" for name in names)


def _needing(name: str) -> Iterator[str]:
    """Yield the suffixes of documents and archives that need the extra of this name."""
    for suffix, kind in FILES.items():
        if isinstance(kind, Document | Archive) and kind.extra is not None and kind.extra.name == name:
            yield suffix


def describe_sources() -> str:
    """Return a sentence's list of the sources that docmill reads, for help and errors."""
    parts = [
        f"a {_listed(_plain(compressed=True))} file (also {' or '.join(COMPRESSIONS)})",
        f"a {_listed(_plain(compressed=False))} file",
        f"a {_listed(_archives())} of such files",
        *PLACES,
    ]
    for what in dict.fromkeys(scheme.what for scheme in SCHEMES.values()):
        examples = dict.fromkeys(scheme.example for scheme in SCHEMES.values() if scheme.what == what)
        parts.append(f"{what} ({', '.join(examples)})")
    extras = (kind.extra for kind in FILES.values() if isinstance(kind, Document | Archive))
    names = dict.fromkeys(extra.name for extra in extras if extra is not None)
    more = [f'with the extra "{name}" also {_listed(_needing(name))}' for name in names]
    return "; ".join([f"{', '.join(parts)}, or {STDIN}", *more])


def _plain(*, compressed: bool) -> Iterator[str]:
    """Yield the suffixes of files, other than archives, that need no extra or whose reader names it."""
    for suffix, kind in FILES.items():
        reads = isinstance(kind, Records) or (isinstance(kind, Document) and kind.extra is None)
        if reads and kind.may_be_compressed == compressed:
            yield suffix


def _archives() -> Iterator[str]:
    for suffix, kind in FILES.items():
        if isinstance(kind, Archive) and kind.extra is None:
            yield from (suffix + end for end in ("", *(COMPRESSIONS if kind.may_be_compressed else ())))


def _listed(suffixes: Iterable[str]) -> str:
    *first, last = suffixes
    return f"{', '.join(first)} or {last}" if first else last
