"""Files that are one document each: plain text, or text extracted from another format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from docmill.storage.core.normalize import bom_length, decode, is_utf16, normalize
from docmill.storage.extras import FORMATS
from docmill.storage.readers.confinement import TIME_S, Confined
from docmill.storage.readers.errors import BrokenStream, SourceError, SourceUnsupported, finding_bugs
from docmill.storage.readers.files import Opened, Source, SourceFile
from docmill.storage.readers.records import (
    MAX_ID_BYTES,
    Record,
    Rejection,
    SourceOptions,
    id_too_long,
    quote_names,
    too_long,
)
from docmill.storage.readers.registry import FILES, HTML, MAIL, PDF, Document, Records, kind_of
from docmill.storage.readers.streams import (
    Counted,
    Decompress,
    buffered,
    decode_file,
    path_text,
    python_name,
    suffix_of_zip,
    why_no_text,
)

NO_SUFFIX = "without a suffix"
ATTACHMENTS_LEFT_OUT = "attachments_left_out"
RECOGNIZED = "recognized"
OCR_TIME_S = 1_800.0  # a page takes about a second
_PRESCANNED = 1024
COMPOUND = b"\xd0\xcf\x11\xe0"
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")  # in an Office file with a password ([MS-OFFCRYPTO])
_MARKS = {  # the bytes that begin documents of a kind; those of Office's newer kinds are zip files
    PDF: b"%PDF-",
    "application/msword": COMPOUND,
    "application/vnd.ms-powerpoint": COMPOUND,
    "application/vnd.oasis.opendocument.text": b"PK",
    "application/epub+zip": b"PK",
    "application/rtf": b"{\\rtf",
}
_ZIP_END = b"PK\5\6"
_RTF = re.compile(rb"\{\\rtf")
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_META = re.compile(rb"<meta\b[^>]*\bcharset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
# The standard's meaning of these labels. A page whose label can be read as ASCII is in none of UTF-16 and UTF-32.
_MEANT = {"iso8859-1": "cp1252", "ascii": "cp1252"} | dict.fromkeys(
    ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"), "utf-8"
)
_ATTACHED = re.compile(rb"^content-disposition:\s*attachment\b", re.IGNORECASE | re.MULTILINE)  # RFC 2183
TESSDATA_VARIABLE = "TESSDATA_PREFIX"
TESSDATA_SUFFIX = ".traineddata"
# The folders in which the formats library looks, in its order.
TESSDATA_FOLDERS = (
    *("/opt/homebrew/share/tessdata", "/opt/homebrew/opt/tesseract/share/tessdata"),
    *("/usr/local/opt/tesseract/share/tessdata", "/usr/share/tesseract-ocr/5/tessdata"),
    *("/usr/share/tesseract-ocr/4/tessdata", "/usr/share/tessdata", "/usr/local/share/tessdata"),
)
_NOT_LANGUAGES = frozenset(("equ", "osd"))


class DocumentReader:
    """A reader of one file after another, with a process that extracts texts. Close it after use.

    The process is started when it is needed and again after it died. It has `time_s` seconds for a document.
    """

    def __init__(self, options: SourceOptions, time_s: float | None = None) -> None:
        self._options = options
        self._process = Confined(
            "docmill.storage.readers.extract_process",
            time_s or (OCR_TIME_S if options.ocr else TIME_S),
            frozenset({TESSDATA_VARIABLE}),
            () if options.ocr is None else (options.ocr,),
        )
        self.bytes_read = 0

    def read(
        self, path: str, open_file: Callable[[], Opened], decompress: Decompress | None = None
    ) -> Record | Rejection:
        """Return the document of a file; ``path`` is its key."""
        where, limit = path_text(path), self._options.max_record_bytes
        try:
            with open_file() as opened:
                raw = buffered(Counted(opened), decompress).read(limit + 1)
        except (SourceError, BrokenStream) as error:
            return _reject(where, str(error))
        except OSError as error:
            return _reject(where, f"cannot be read: {error.strerror}")
        if len(raw) > limit:
            return _reject(where, too_long(limit))
        return self.document(path, raw)

    def document(self, path: str, raw: bytes) -> Record | Rejection:
        """Return the document of a file's content, by the suffix of its name."""
        where = path_text(path)
        self.bytes_read += len(raw)
        kind = FILES.get(kind_of(path)[0])
        media_type = kind.media_type if isinstance(kind, Document) else None
        is_text = media_type in {None, HTML, MAIL} or (isinstance(kind, Document) and kind.is_text)
        if is_text and (reason := why_no_text(raw)) is not None:
            return _reject(where, reason)
        with finding_bugs(where):
            if isinstance(kind, Document) and kind.media_type is not None:
                return self._extracted(where, raw, kind)
            return _document(where, *decode_file(raw, self._options.encoding))

    def extract(self, raw: bytes, kind: str) -> tuple[str, tuple[str, ...]]:
        """Return the text of a document of a kind (a MIME type), with a flag if a part of it was recognized.

        Raises BrokenStream if the document is broken, takes too much time or memory, or has too much text. The
        reason has none of the document's own words.
        """
        self._process.send({"kind": kind}, raw)
        head, text = self._process.receive(self._options.max_record_bytes)
        if head.get("unloaded"):
            raise BrokenStream(
                f"the library that reads its kind could not be loaded out of {gettempdir()}: set TMPDIR to a folder "
                "on a disk whose programs may be run (a tmpfs of a container takes `exec`)"
            )
        if "error" in head:
            raise BrokenStream(_why_not_read(raw, kind, head))
        return text.decode(errors="replace"), (RECOGNIZED,) if head.get("recognized") else ()

    def close(self) -> None:
        self._process.close()

    def _extracted(self, where: str, raw: bytes, kind: Document) -> Record | Rejection:
        flags: tuple[str, ...] = ()
        media_type = kind.media_type
        assert media_type is not None
        if kind.is_text or media_type == HTML:
            said, flags = decode_file(raw, self._options.encoding) if kind.is_text else _page(raw)
            raw = said.encode("utf-8", "replace")
        elif media_type == MAIL and _ATTACHED.search(raw):
            flags = (ATTACHMENTS_LEFT_OUT,)
        try:
            text, more = self.extract(raw, media_type)
        except BrokenStream as error:
            return _reject(where, str(error))
        if raw.strip() and not text.strip():
            return _reject(where, self._why_no_text(kind))
        return _document(where, text, flags + more)

    def _why_no_text(self, kind: Document) -> str:
        if kind.is_text:
            return "no subtitles were found in it"
        if kind.media_type != PDF:
            return "no text was found in it"
        if self._options.ocr is None:
            return (
                "no text was found in it; if its pages are scanned, --ocr LANGUAGE recognizes them, as in --ocr eng"
            )
        return f"no text was found in it, and none was recognized in its pages (--ocr {self._options.ocr})"


class DocumentSource(Source):
    """A file that is one document; its key is the file's name. A source of many files sets one `reader` for all."""

    reader: DocumentReader | None = None

    def __init__(self, content: SourceFile, options: SourceOptions, decompress: Decompress | None = None) -> None:
        self._content = content
        self._decompress = decompress
        self._options = options
        self.name = content.name
        self._bytes_read = 0

    @property
    def bytes_read(self) -> int:
        return self._bytes_read

    def size_bytes(self) -> int | None:
        return self._content.size_bytes

    def records(self) -> Iterator[Record | Rejection]:
        with closing(DocumentReader(self._options)) as own:
            reader = self.reader or own
            before = reader.bytes_read
            item = reader.read(self._content.place, self._content.open, self._decompress)
            self._bytes_read = reader.bytes_read - before
            yield item


def _why_not_read(raw: bytes, media_type: str, answer: dict[str, Any]) -> str:
    """Return why a library did not read a document, from its bytes and the extraction process's answer."""
    if not raw:
        return "it is empty: its file has no bytes"
    if answer.get("protected"):
        return "it is protected by a password: save a copy without it"
    mark = _MARKS.get(media_type, b"PK" if "openxmlformats" in media_type else b"")
    own = next(kind for kind in FILES.values() if isinstance(kind, Document) and kind.media_type == media_type)
    if raw.startswith(b"PK") and (reason := why_other_kind(raw, own)) is not None:
        return reason
    if mark not in raw[:_PRESCANNED]:
        other = "it is no file of its kind, whatever its name says: save it again, or rename it"
        return why_other_kind(raw, own) or why_no_text(raw) or other
    return f"it is damaged or cut short ({answer['error']}): fetch or save it again"


def why_other_kind(raw: bytes, kind: Document | Records) -> str | None:
    """Return the true kind of a file that is named as a document or workbook of this kind; None if it is unknown."""
    for begins, what, suffix in ((_RTF, "an RTF file", ".rtf"), (_PAGE, "a web page", ".html")):
        if begins.match(raw):
            return f"it is {what} under another name: end its name in {suffix}"
    if (packed_as := suffix_of_zip(raw)) is None:
        return None if raw.startswith(COMPOUND) else why_no_text(raw)
    # A zip file without an end is cut short, perhaps before the names that tell its kind.
    is_cut = packed_as == ".zip" and _ZIP_END not in raw
    return None if is_cut or FILES[packed_as] == kind else why_no_text(raw)


def _reject(where: str, reason: str) -> Rejection:
    return Rejection(where, reason, below=where)


def _document(where: str, text: str, flags: tuple[str, ...]) -> Record | Rejection:
    if len(where.encode()) > MAX_ID_BYTES:
        return _reject(where, id_too_long(where))
    text, replaced = normalize(text)
    return Record(where, text, {}, flags + replaced, where)


def _page(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """Return an HTML file as text by its declared encoding (HTML Living Standard, 13.2.3.2).

    Bytes outside its encoding are replaced, and the first one is flagged.
    """
    encoding = "utf-16" if is_utf16(raw) else _find_declared(raw)
    if encoding == "utf-8":
        skip = bom_length(raw)
        return decode(raw[skip:], skip)
    try:
        return raw.decode(encoding), ()
    except UnicodeDecodeError as error:
        flag = f"invalid_{encoding.replace('utf-16', 'utf16')}@{error.start}"
        return raw.decode(encoding, errors="replace"), (flag,)


def _find_declared(raw: bytes) -> str:
    """Return Python's name for the declared encoding; UTF-8 if it is unknown, or not an encoding of text."""
    said = None if bom_length(raw) else _META.search(raw[:_PRESCANNED])
    name = (said and python_name(said.group(1).decode())) or "utf-8"
    return _MEANT.get(name, name)


def find_languages(languages: str, folder: str | None) -> str:
    """Return the languages, joined by `+`. `folder` is the value of TESSDATA_PREFIX.

    Raises SourceUnsupported if the formats library or a language's data is not on this machine.
    """
    FORMATS.require("--ocr", error=SourceUnsupported)
    wanted = re.sub(r"\s*[,+]\s*", "+", languages.strip())
    there = installed_languages((folder,) if folder else TESSDATA_FOLDERS)
    lacking = [language for language in wanted.split("+") if language not in there]
    if not lacking:
        return wanted
    if not there:
        where = f"in {folder}, which {TESSDATA_VARIABLE} names" if folder else "on this machine"
        raise SourceUnsupported(
            f"--ocr needs Tesseract's data, and there is none {where}; Debian's package tesseract-ocr-eng has "
            "those for English"
        )
    raise SourceUnsupported(
        f"--ocr: no data of Tesseract for {quote_names(lacking)} on this machine; there is {', '.join(there)}. "
        "Languages are named as Tesseract names them, such as eng or deu+eng; Debian's package "
        "tesseract-ocr-LANGUAGE has the data of one"
    )


def installed_languages(folders: Sequence[str]) -> list[str]:
    """Return the languages in the first of these folders that is there."""
    for folder in map(Path, folders):
        if folder.is_dir():
            names = (path.name.removesuffix(TESSDATA_SUFFIX) for path in folder.glob(f"*{TESSDATA_SUFFIX}"))
            return sorted(name for name in names if name not in _NOT_LANGUAGES)
    return []
