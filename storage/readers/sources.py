"""Choose the reader for a source by its name. `storage.readers.registry` lists the kinds.

Features bring more. Under `.xyz` stands a function for files with this suffix, `(stream, name, options) -> rows`.
One under `xyz` opens `xyz://…`: `(url, options) -> source`. The kinds of the registry take precedence.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import orjson

from docmill.storage.core.normalize import normalize_json
from docmill.storage.errors import StorageError, raised_at
from docmill.storage.features import features
from docmill.storage.readers import remote
from docmill.storage.readers.archives import ArchiveSource
from docmill.storage.readers.documents import DocumentSource
from docmill.storage.readers.errors import (
    BrokenStream,
    FieldUnknown,
    KindUnknown,
    SourceError,
    SourceMissing,
    SourceUnsupported,
)
from docmill.storage.readers.files import FileSource, Source, SourceFile, StreamSource, on_disk, source_of_records
from docmill.storage.readers.many_files import FilesSource, FolderSource, Open, Pattern, is_pattern, parts_in, within
from docmill.storage.readers.records import (
    Rejection,
    Row,
    RowReader,
    Rows,
    SourceOptions,
    keys_of,
    refuse_options,
    too_long,
    without_metadata,
)
from docmill.storage.readers.registry import (
    COMPRESSIONS,
    FILES,
    SCHEMES,
    Archive,
    Document,
    Records,
    advise_extras,
    is_readable,
    kind_of,
    readable_suffixes,
)
from docmill.storage.readers.streams import Decompress, is_folder, of_text, path_text, text_lines
from docmill.storage.writers.formats import CSV

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)://")  # a protocol of fsspec has an underscore


def open_source(source: str, options: SourceOptions) -> Source:
    """Return the source that a user named. Its first records are read, so that a wrong field name is found.

    Raises SourceError.
    """
    if source == "-":
        refuse_options("standard input", options, "encoding")
        return StreamSource(sys.stdin.buffer, options)
    if not source:
        raise SourceMissing("the source is empty: name a file, a folder, or - for standard input")
    if (scheme := scheme_of(source)) is not None:
        known = SCHEMES.get(scheme)
        if (open_url := known.open if known else find_opener(scheme)) is not None:
            refuse_options(f"{scheme}://", options)
            return open_url(source, options)
        if scheme != "file":
            return open_content(remote.content(source), options)
    path = path_of(source) or Path(source)
    if is_folder(path):
        if (parts := parts_in(path)) is not None:
            root = path.resolve()
            return FilesSource(path_text(root), options, lambda: (within(root, part) for part in parts), _open_part)
        return FolderSource(path, options, reader_of)
    if is_pattern(str(path)):
        pattern = Pattern(str(path))
        return FilesSource(str(pattern), replace(options, one_of_many=True), pattern.walk, open_file)
    return open_file(path, options)


def open_queries(queries: str) -> Source:
    """Return the source of a file of queries: a .txt file with one a line, or a file of records with a "text".

    Raises as `open_source` does.
    """
    for suffix, decompress in {"": None, **COMPRESSIONS}.items():
        if queries.lower().endswith(f".txt{suffix}"):
            path = path_of(queries)
            content = remote.content(queries) if path is None else on_disk(path)
            return FileSource(content, of_text(_plain_rows), decompress, SourceOptions())
    source = open_source(queries, SourceOptions())
    if isinstance(source, DocumentSource):
        others = "these are: .jsonl, .csv, .tsv, .txt (also .gz or .zst), .parquet"
        raise KindUnknown(f"{source.name} is not a file of queries, but one document; {others}")
    return source


def _plain_rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
    """Yield the stream's lines as texts. Blank lines are skipped, and count in line numbers."""
    for number, (line, flags) in enumerate(text_lines(stream, options.max_record_bytes), 1):
        where = f"{name}:{number}"
        if line is None:
            yield Rejection(where, too_long(options.max_record_bytes), keys=keys_of({}, name, where, options))
            continue
        if text := line.strip():
            yield Row({options.text_field: text}, where, flags, clean=False)


def scheme_of(source: str) -> str | None:
    """Return the scheme of a URL in lower case; None for a path."""
    match = _SCHEME.match(source)
    return match[1].lower() if match else None


def path_of(source: str) -> Path | None:
    """Return the path of a source on this machine; None for a source elsewhere, and for standard input."""
    scheme = scheme_of(source)
    if (known := SCHEMES.get(scheme or "")) is not None:
        return known.path_of(source)
    if scheme == "file":
        return Path(unquote(source.partition("://")[2]))
    return None if scheme is not None or source == "-" else Path(source)


def open_file(path: Path, options: SourceOptions, place: str | None = None) -> Source:
    """Return the source of one file on a disk. Its kind, keys and messages come from `place`, else from its name."""
    return open_content(on_disk(path, place), options)


def _open_part(path: Path, options: SourceOptions, place: str) -> Source:
    """Return the source of a part of an export, with the texts as they were before the export."""
    suffix, decompress = kind_of(place)
    if suffix != CSV.suffix:
        return open_file(path, options, place)
    kind = Records("docmill.storage.readers.delimited:exported_rows")
    return source_of_records(kind.rows, decompress, kind.options, on_disk(path, place), options)


def open_content(content: SourceFile, options: SourceOptions) -> Source:
    """Return the source of one file, by the kind of its name."""
    reader = reader_of(content.place)
    if reader is None:
        suffix, _ = kind_of(content.place)
        if suffix == ".json":
            how = "to make them of an array: jq -c '.[]' FILE.json >FILE.jsonl"
            raise KindUnknown(f"{content.place}: docmill reads JSON lines; {how}")
        kinds = f"{', '.join(readable_suffixes())}, some also with {' or '.join(COMPRESSIONS)}"
        advice = f"these are: {kinds}{advise_extras([suffix])}"
        raise KindUnknown(f"{content.place} is not a kind of file that is read; {advice}")
    return reader(content, options)


def reader_of(file_name: str) -> Open | None:
    """Return the reader for a file of this name; None for a kind of file that is not read."""
    suffix, decompress = kind_of(file_name)
    kind = FILES.get(suffix)
    if isinstance(kind, Records):
        return partial(source_of_records, kind.rows, decompress, kind.options)
    if kind is not None and is_readable(kind) and (decompress is None or kind.may_be_compressed):
        return partial(_documents, kind, decompress)
    read_rows = row_reader(suffix) if suffix else None
    taken = ("encoding", "sheet", "header_row")
    return None if read_rows is None else partial(source_of_records, read_rows, decompress, taken)


def _documents(
    kind: Document | Archive, decompress: Decompress | None, content: SourceFile, options: SourceOptions
) -> Source:
    if isinstance(kind, Archive) and kind.has_files and options.meta_fields:
        field = f"{{meta.{options.meta_fields[0]}}}"
        raise FieldUnknown(f"{content.place}: a prompt with {field} reads no archives; unpack it into a folder")
    without_metadata(content.place, options)
    refuse_options(content.place, options, *kind.options)
    if isinstance(kind, Archive):
        return ArchiveSource(content, options, partial(kind.members, decompress))
    return DocumentSource(content, options, decompress)


def row_reader(suffix: str) -> RowReader | None:
    """Return the function that reads files of a suffix (`.xyz`). Raises SourceUnsupported if it does not load."""
    loaded = _load_reader(suffix)
    if loaded is None:
        return None
    read_rows, who = loaded

    def rows(stream: BinaryIO, name: str, options: SourceOptions) -> Rows:
        try:
            for row in read_rows(stream, name, options):
                yield _check_row(row, f"{name}: {who}")
        except (SourceError, BrokenStream, OSError):
            raise
        except Exception as error:
            raise SourceError(f"{name}: {who} failed ({raised_at(error)})") from error

    return rows


def _check_row(row: Row | Rejection, reader: str) -> Row | Rejection:
    """Return a row of a feature's reader, normalized. Raises SourceError for a value that is no row.

    The store would fail on it only later, and as if it were a bug of docmill.
    """
    if isinstance(row, Rejection):
        return row
    if not isinstance(row, Row):
        raise SourceError(f"{reader} yields {type(row).__name__}, not Row or Rejection")
    for field, value, wanted in (("fields", row.fields, dict), ("where", row.where, str)):
        if not isinstance(value, wanted):
            kind = type(value).__name__
            raise SourceError(f"{reader} yields a Row whose {field} is of type {kind}, not {wanted.__name__}")
    fields, replaced = (row.fields, ()) if row.clean else normalize_json(row.fields)
    try:
        orjson.dumps(fields)
    except TypeError as error:
        raise SourceError(f"{reader} yields a Row with a field that is no JSON value ({error})") from error
    return row._replace(fields=fields, flags=(*row.flags, *replaced), clean=True)


def find_opener(scheme: str) -> Callable[[str, SourceOptions], Source] | None:
    """Return the function that opens URLs of a scheme (`xyz`). Raises SourceUnsupported if it does not load."""
    loaded = _load_reader(scheme)
    if loaded is None:
        return None
    open_url, who = loaded

    def opened(url: str, options: SourceOptions) -> Source:
        try:
            source: Source = open_url(url, options)
        except SourceError:
            raise
        except Exception as error:  # its message may contain the URL's password
            raise SourceError(f"{scheme}://: {who} failed ({type(error).__name__})") from error
        if not isinstance(source, Source) or not isinstance(getattr(source, "name", None), str):
            raise SourceError(f"{scheme}://: {who} gives no source")
        return source

    return opened


def _load_reader(name: str) -> tuple[Callable[..., Any], str] | None:
    """Return the reader that a feature brings under a name, and a description for messages."""
    brought = [(feature, feature.readers[name]) for feature in features() if name in feature.readers]
    if not brought:
        return None
    if len(brought) > 1:
        names = " and ".join(feature.name for feature, _ in brought)
        raise SourceUnsupported(f"{name} is read by more than one reader, of the features {names}; uninstall one")
    ((feature, reference),) = brought
    try:
        reader = feature.load(reference, object)
    except StorageError as error:
        raise SourceUnsupported(f"{name}: {error}") from error
    described = f"the reader {reference} of the feature {feature.name}"
    if not callable(reader):
        raise SourceUnsupported(f"{name}: {described} is no function")
    return reader, described
