"""CSV and TSV with a header line: RFC 4180 quoting, UTF-8.

Columns are separated by commas, in a .tsv by tabs. If the header lacks the wanted fields, other delimiters are tried:
semicolons, which spreadsheets use in much of Europe, tabs and bars.
"""

from __future__ import annotations

import csv
from functools import partial
from itertools import chain
from typing import BinaryIO

from docmill.storage.core.normalize import bom_length, decode, normalize
from docmill.storage.readers.errors import SourceError
from docmill.storage.readers.records import (
    MAX_FIELDS,
    MAX_ID_BYTES,
    Rejection,
    Row,
    Rows,
    SourceOptions,
    check_columns,
    find_missing_field,
    keys_of,
    too_long,
)
from docmill.storage.readers.streams import lines
from docmill.storage.readers.table import VALUE_LEFT_OUT
from docmill.storage.writers.formats import unescape_formula

# Python's csv module holds four bytes for each character of a field, and grows by doubling.
MAX_CSV_RECORD_BYTES = 64 * 2**20
DELIMITERS = ",;\t|"


class _TooLong(Exception):
    """The record is longer than the limit, on one line or several."""


class _Lines:
    """Physical lines as text for the csv module, with the flags and limits of the record they form."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._lines = lines(stream, limit)
        self._limit = limit
        self._offset = 0
        self.begin_record()

    def begin_record(self) -> None:
        self.record_bytes = 0
        self.flags: tuple[str, ...] = ()
        self.clean = True

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = next(self._lines)
        if isinstance(raw, int) or self.record_bytes + len(raw) > self._limit:
            raise _TooLong
        skip = 0 if self._offset else bom_length(raw)
        text, flags = decode(raw[skip:], self._offset + skip)
        self._offset += len(raw)
        self.record_bytes += len(raw)
        self.flags = self.flags or flags  # the flag names the first bad byte
        self.clean = self.clean and "\0" not in text
        return text


def rows(
    stream: BinaryIO, name: str, options: SourceOptions, *, delimiter: str = ",", own_export: bool = False
) -> Rows:
    """Yield the file's records by column name. A record without an end ends the reading.

    `own_export` says that docmill wrote the file: an apostrophe before a formula is then no part of the text.

    Raises SourceError for an unusable header.
    """
    limit = min(options.max_record_bytes, MAX_CSV_RECORD_BYTES)
    csv.field_size_limit(MAX_CSV_RECORD_BYTES)  # for the process; the default is 128 kB
    source = _Lines(stream, limit)
    try:
        n_blank, line = _up_to_the_header(source)
        if line and not own_export:
            delimiter = _delimiter(line, delimiter, options)
        reader = csv.reader(chain([line], source), delimiter=delimiter, strict=True)
        header = next(filter(None, reader), None)
    except (csv.Error, _TooLong) as error:
        raise SourceError(f"{name}: the header line cannot be read") from error
    if header is None:
        return
    header = [normalize(unescape_formula(cell) if own_export else cell)[0] for cell in header]
    check_columns(header if len(header) > MAX_FIELDS else [*filter(None, header)], name, options)
    while True:
        source.begin_record()
        first = n_blank + reader.line_num + 1
        where = f"{name}:{first}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except _TooLong:
            reason = f"{too_long(limit)}; is a quote left open? What follows was not read"
            yield Rejection(where, reason, fatal=True)
            return
        except csv.Error as error:
            at_end = "unexpected end of data" in str(error)
            said = _csv_reason(error, first, n_blank + reader.line_num)
            reason = "a quote opens and never closes; what follows was not read" if at_end else f"not CSV: {said}"
            yield Rejection(where, reason, fatal=at_end)
            continue
        if not values:
            continue  # a blank line
        if own_export:
            values = [unescape_formula(cell) for cell in values]
        if len(values) != len(header):
            reason = f"{len(values)} fields where the header has {len(header)}"
            yield Rejection(where, reason, keys=_keys(values, header, name, where, options))
            continue
        fields, flags = _named_fields(header, values)
        yield Row(fields, where, source.flags + flags, source.clean)


exported_rows = partial(rows, own_export=True)  # of a CSV file that docmill wrote, with the texts as they were
tab_separated_rows = partial(rows, delimiter="\t")


def _named_fields(header: list[str], values: list[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the values of columns with a name, and a flag if others have values."""
    fields = dict(zip(header, values, strict=True))
    if fields.pop("", None) is None:
        return fields, ()
    left_out = any(value and not column for column, value in zip(header, values, strict=True))
    return fields, (VALUE_LEFT_OUT,) if left_out else ()


def _keys(values: list[str], header: list[str], name: str, where: str, options: SourceOptions) -> tuple[str, ...]:
    """Return the possible keys of a record with a field too many or too few: any of its values may be its id."""
    if len(values) > MAX_FIELDS:
        return ()
    ids = [normalize(value)[0] for value in values if len(value) <= MAX_ID_BYTES]
    ids = [*ids, ""] if options.id_field in header else [""]
    return tuple(key for id_ in ids for key in keys_of({options.id_field: id_}, name, where, options))


def _up_to_the_header(source: _Lines) -> tuple[int, str]:
    """Return the number of blank lines before the header, and its first line; an empty one at the end."""
    n_blank = 0
    for line in source:
        if line.strip("\r\n"):
            return n_blank, line
        n_blank += 1
        source.begin_record()
    return n_blank, ""


def _delimiter(line: str, default: str, options: SourceOptions) -> str:
    """Return the delimiter that gives a header with the wanted fields, else with the most fields."""

    def merit(delimiter: str) -> tuple[bool, int]:
        names = next(csv.reader([line], delimiter=delimiter), [])
        return find_missing_field([names], options) is None, len(names)

    candidates: list[str] = [default, *DELIMITERS]  # the first wins a tie
    return max(candidates, key=merit)


def _csv_reason(error: csv.Error, first: int, last: int) -> str:
    """Return why a record is not CSV. Its first line and that of the error are `first` and `last`."""
    is_return = "new-line character" in str(error)
    what = "a bare carriage return outside quotes" if is_return else "text after a closing quote"
    return what if last == first else f"{what} in line {last}; is a quote left open?"
