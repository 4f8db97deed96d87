"""Sources: the choice between them. Where a kind of source lives is one line of a table here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote

from storage.postgres_urls import POSTGRESQL
from storage.readers import arrow, delimited, jsonl, parquet, plain, plugins, remote
from storage.readers.archives import ArchiveSource, Members, members_of
from storage.readers.dataset import SCHEME, open_dataset, parse
from storage.readers.documents import TEXT, DocumentSource, missing, suffixes
from storage.readers.errors import KindUnknown, SourceMissing, SourceUnsupported
from storage.readers.files import Content, FileSource, RowReader, Source, StreamSource, on_disk
from storage.readers.folder import FolderSource, Open
from storage.readers.parts import parts_in
from storage.readers.patterns import FilesSource, Pattern, is_pattern
from storage.readers.query import SQLITE, QuerySource, sqlite_file
from storage.readers.recoding import of_text
from storage.readers.records import SourceOptions, without_metadata
from storage.readers.streams import Decompressor, Gunzip, Unzstd, is_folder

# A new kind of file is one function that turns its bytes into rows, and one line here: `of_text` where they are text.
FORMATS: dict[str, RowReader] = {
    ".jsonl": of_text(jsonl.rows),
    ".ndjson": of_text(jsonl.rows),
    ".csv": of_text(delimited.rows),
    ".tsv": of_text(partial(delimited.rows, delimiter="\t")),
    ".parquet": parquet.rows,
    ".arrow": arrow.rows,
    ".feather": arrow.rows,
}
_SAY_THEIR_ENCODING = frozenset((".parquet", ".arrow", ".feather"))
# A new kind of what is no file is what takes a URL and gives a source, and one line here.
SCHEMES: dict[str, Callable[[str, SourceOptions], Source]] = {
    "sqlite": QuerySource,
    **dict.fromkeys(POSTGRESQL, QuerySource),
    SCHEME: open_dataset,
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)://")  # with the underscore that fsspec has in a name
COMPRESSIONS: dict[str, Callable[[], Decompressor]] = {".gz": Gunzip, ".zst": Unzstd}
READABLE = (
    ".jsonl, .csv and .tsv files, .txt and .md (also .gz or .zst), .parquet, .arrow, .feather, a folder, "
    "a pattern with * or ?, a .zip or a .tar (.gz, .zst) of texts (with the extra 'formats' also HTML, PDF, office, "
    "e-book and mail files and .mbox), a URL of any such file, a data set (datasets://OWNER/NAME?split=train), a "
    "query (sqlite:///FILE?SELECT …, postgresql://USER@HOST/NAME?SELECT …), and - for JSON lines"
)


def open_source(source: str, options: SourceOptions, *, stdin: BinaryIO | None = None) -> Source:
    """The reader for what the user named. The first records have been looked at, so that a wrong field name shows.

    Raises SourceMissing, SourceUnreadable, SourceUnsupported, SourceEmpty and FieldUnknown.
    """
    if source == "-":
        return StreamSource(stdin, options)
    if not source:
        raise SourceMissing("the source is empty: name a file, a folder, or - for standard input")
    if (scheme := scheme_of(source)) is not None:
        if (open_url := SCHEMES.get(scheme) or plugins.opener(scheme)) is not None:
            _without_encoding(f"{scheme}://", options)
            return open_url(source, options)
        if scheme != "file":
            content = remote.content(source)
            return open_content(content, content.place, options)
    path = path_of(source) or Path(source)
    if is_folder(path):
        parts = parts_in(path)
        if parts is not None:
            return FilesSource(parts, options, open_file)
        return FolderSource(path, options, kinds())
    if is_pattern(source):
        return FilesSource(Pattern(source), replace(options, one_of_many=True), open_file)
    return open_file(path, options)


def open_queries(queries: str, *, stdin: BinaryIO | None = None) -> Source:
    """The reader for a file of queries: a .txt file with one a line, or whatever holds records that have a "text".

    Raises what `open_source` does.
    """
    path, name = Path(queries), queries.lower()
    for suffix, decompressor in {"": None, **COMPRESSIONS}.items():
        if name.endswith(f".txt{suffix}"):
            return FileSource(on_disk(path), of_text(plain.rows), decompressor, SourceOptions())
    source = open_source(queries, SourceOptions(), stdin=stdin)
    if isinstance(source, DocumentSource):
        others = "these are: .jsonl, .csv, .tsv, .txt (also .gz or .zst), .parquet"
        raise KindUnknown(f"{source.name} is not a file of queries, but one document; {others}")
    return source


def scheme_of(source: str) -> str | None:
    """Of a source that is a URL, in lower case; None for a path."""
    found = _SCHEME.match(source)
    return found[1].lower() if found else None


def path_of(source: str) -> Path | None:
    """Where on this machine a source lies, whatever it is there; None where it is elsewhere, or standard input."""
    scheme = scheme_of(source)
    if scheme == SQLITE:
        return sqlite_file(source)
    if scheme == SCHEME:
        return parse(source).folder
    if scheme == "file":
        return Path(unquote(source.partition("://")[2]))
    return None if scheme is not None or source == "-" else Path(source)


def open_file(path: Path, options: SourceOptions, place: str | None = None) -> Source:
    """The reader for one file on a disk; `place` is what it is called in keys and messages, unless by its name."""
    return open_content(on_disk(path, place), path.name, options)


def open_content(content: Content, file_name: str, options: SourceOptions) -> Source:
    """The reader for one file of records or of documents, or that is one document, by its name."""
    reader = reader_of(file_name, plugins.row_reader)
    if reader is None:
        parts = [suffix.lower() for suffix in PurePosixPath(file_name).suffixes]
        others = f"these are: {READABLE}{missing([part for part in parts if part not in COMPRESSIONS][-1:])}"
        raise KindUnknown(f"{content.place} is not a kind of file that is read; {others}")
    return reader(content, options)


def kinds() -> Callable[[str], Open | None]:
    """Return `reader_of` for many files, which asks for another package's reader once for each suffix."""
    return partial(reader_of, of_packages=cache(plugins.row_reader))


def reader_of(file_name: str, of_packages: Callable[[str], RowReader | None]) -> Open | None:
    """Return the reader for a file of this name; None for a kind of file that is not read."""
    if (members := members_of(file_name)) is not None:
        return partial(_archive, members)
    parts = [suffix.lower() for suffix in PurePosixPath(file_name).suffixes]
    decompressor = COMPRESSIONS.get(parts[-1]) if parts else None
    if decompressor is None and parts and parts[-1] in suffixes():
        return partial(_document, None)
    if decompressor is not None:
        parts.pop()
        if parts and parts[-1] in TEXT:
            return partial(_document, decompressor)
    read_rows = FORMATS.get(parts[-1]) or of_packages(parts[-1]) if parts else None
    if read_rows is None:
        return None
    return partial(_records, read_rows, decompressor, parts[-1] in _SAY_THEIR_ENCODING)


def _records(
    read_rows: RowReader,
    decompressor: Callable[[], Decompressor] | None,
    says_encoding: bool,
    content: Content,
    options: SourceOptions,
) -> Source:
    if says_encoding and not options.one_of_many:
        _without_encoding(content.place, options)
    return FileSource(content, read_rows, decompressor, options)


def _without_encoding(source: str, options: SourceOptions) -> None:
    if options.encoding is not None:
        raise SourceUnsupported(f"{source} says itself how its texts are encoded: leave out --encoding")


def _archive(members: Members, content: Content, options: SourceOptions) -> Source:
    without_metadata(content.place, options)
    return ArchiveSource(content, options, members)


def _document(decompressor: Callable[[], Decompressor] | None, content: Content, options: SourceOptions) -> Source:
    without_metadata(content.place, options)
    return DocumentSource(content, options, decompressor)
